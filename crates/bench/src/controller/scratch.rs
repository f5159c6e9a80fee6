//! Planning from scratch: what the decisions alone take when nothing is placed, without store, engines and wire. The
//! controller's own planner decides, in this process, about the objects that the other figures are about.

use super::{fleet, load, ms};
use crate::report::{Bar, Reading};
use anyhow::{Result, ensure};
use controller::Scratch;
use std::time::Instant;

/// Longest time for 5,000 virtual services over 64 engines: nobody waits longer for a controller that starts.
const PLAN_MS_MAX: f64 = 1000.0;
/// Plans of each size; the first one fills what the planner keeps of objects, and counts like the others.
const TIMES: usize = 5;

/// So many virtual services and a tenth of them, on `scaleout` of the engines each.
pub(super) fn readings(engines: usize, services: usize, scaleout: usize) -> Result<Vec<Reading>> {
    let few = services / 10;
    cli::note!("plans from nothing, {few} and {services} virtual services on {engines} engines");
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let small = runtime.block_on(plans(engines, few, scaleout))?;
    let large = runtime.block_on(plans(engines, services, scaleout))?;
    let grows = large.iter().zip(&small).map(|(large, small)| large / small);
    let what = |services| format!("{services}: all planned from nothing, without a write");
    Ok(vec![
        Reading::new(
            format!("{services} beside {few}: all planned from nothing"),
            "times",
            grows.collect(),
            Bar::NONE,
        ),
        Reading::new(what(few), "ms", small, Bar::NONE),
        Reading::new(what(services), "ms", large, Bar::max(PLAN_MS_MAX)),
    ])
}

/// How long each plan takes.
async fn plans(engines: usize, services: usize, scaleout: usize) -> Result<Vec<f64>> {
    let scratch = filled(engines, services, scaleout).await?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        let places = scratch.plan()?;
        times.push(ms(began.elapsed()));
        ensure!(
            places == services * scaleout,
            "{places} places for {services} virtual services on {scaleout} engines each"
        );
    }
    Ok(times)
}

async fn filled(engines: usize, services: usize, scaleout: usize) -> Result<Scratch> {
    let mut scratch = Scratch::new().await?;
    for (ty, name, fields) in load::settings(scaleout) {
        scratch.set(ty, name, fields).await?;
    }
    for number in 0..engines {
        scratch.join(fleet::hello(number, 0)).await?;
    }
    let objects = (0..services).flat_map(load::batch_of);
    scratch.create(objects.collect()).await?;
    Ok(scratch)
}
