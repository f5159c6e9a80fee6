//! The words of states alone, of many objects at once: for who keeps in mind since when they are so ([`super::super::since`]).

use super::super::Assignment;
use super::super::since::Thing;
use super::super::situation;
use super::pool::{Found, judges};
use super::service::{own_status, service_status, word, word_at};
use super::{Observer, pool_status};
use crate::engines::registry::EngineState;
use model::view::{Pool, VirtualService, VsVip};
use proto::v1::PoolStatus;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// An engine, and what it reports, to be found at once.
pub(in crate::plan) struct Sheet<'a> {
    state: &'a EngineState,
    /// States of virtual services.
    services: HashMap<&'a str, i32>,
    /// `vip_id`s by uuid of the VsVip.
    vips: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Sheet<'a> {
    pub(in crate::plan) fn of(state: &'a EngineState) -> Self {
        let report = state.report.as_deref();
        let services = report.into_iter().flat_map(|r| &r.virtual_services);
        let mut vips: HashMap<&str, Vec<&str>> = HashMap::new();
        for vip in report.into_iter().flat_map(|r| &r.vips) {
            vips.entry(&vip.vsvip_uuid).or_default().push(&vip.vip_id);
        }
        Self {
            state,
            services: services.map(|s| (s.uuid.as_str(), s.state)).collect(),
            vips,
        }
    }
}

/// A virtual service on an engine.
struct Row<'a> {
    se: &'a str,
    sheet: &'a Sheet<'a>,
    word: &'static str,
    standby: bool,
}

impl Observer<'_> {
    pub(in crate::plan) fn engine_word(&self, state: &EngineState) -> String {
        word(&self.engine_status(state))
    }

    /// Of the virtual services of a VsVip, also on each engine, and of their VIPs.
    pub(in crate::plan) fn words(
        &self,
        vsvip: &VsVip,
        assignment: &Assignment,
        sheets: &BTreeMap<&str, Sheet<'_>>,
    ) -> Vec<(Thing, String)> {
        let services = situation::services_of(self.snapshot, &vsvip.uuid);
        let each = services.iter();
        each.flat_map(|vs| self.words_of(vs, vsvip, assignment, sheets))
            .collect()
    }

    fn words_of(
        &self,
        vs: &VirtualService,
        vsvip: &VsVip,
        assignment: &Assignment,
        sheets: &BTreeMap<&str, Sheet<'_>>,
    ) -> Vec<(Thing, String)> {
        let has_standby = self.has_standby(vs);
        let rows = assignment.engines.iter().filter_map(|se| {
            let sheet = sheets.get(se.as_str())?;
            let reported = sheet.services.get(vs.uuid.as_str()).copied();
            Some(Row {
                se,
                sheet,
                word: word_at(sheet.state, reported),
                standby: has_standby && !assignment.is_active(se),
            })
        });
        let rows: Vec<Row<'_>> = rows.collect();
        let there = rows.iter().map(|row| {
            let thing = Thing::ServiceAt(vs.uuid.clone(), row.se.to_owned());
            (thing, row.word.to_owned())
        });
        let mut words: Vec<(Thing, String)> = there.collect();
        let all = rows.iter().map(|row| shown(row, row.word));
        let all = self.word_of(vs, &all.collect::<Vec<_>>());
        words.push((Thing::Service(vs.uuid.clone()), all));
        for vip in &vsvip.vip {
            let each = rows.iter().map(|row| {
                let ids = row.sheet.vips.get(vsvip.uuid.as_str());
                let ids = ids.map_or(&[][..], Vec::as_slice);
                let own = own_status(vip, row.word, ids);
                shown(row, &own.map_or(row.word.to_owned(), |own| word(&own)))
            });
            let own = self.word_of(vs, &each.collect::<Vec<_>>());
            words.push((Thing::Vip(vs.uuid.clone(), vip.vip_id.clone()), own));
        }
        words
    }

    /// Of a virtual service, or a VIP of it, that is so on its engines.
    fn word_of(&self, vs: &VirtualService, engines: &[Value]) -> String {
        word(&service_status(vs, &self.judges(vs, engines), None))
    }

    /// Of those of these pools that are there.
    pub(in crate::plan) fn pool_words(&self, pools: &BTreeSet<String>) -> Vec<(Thing, String)> {
        let mut reports = self.reports_of(pools);
        let each = pools.iter().filter_map(|uuid| {
            let pool: Arc<Pool> = self.snapshot.view("pool", uuid)?;
            let found = reports.remove(uuid).unwrap_or_default();
            let status = pool_status(&pool, &judges(found), 0);
            Some((Thing::Pool(uuid.clone()), word(&status)))
        });
        each.collect()
    }

    /// What each connected engine reports of them, without servers, and whether it was told to check them.
    fn reports_of(&self, pools: &BTreeSet<String>) -> HashMap<String, Vec<Found>> {
        let mut reports: HashMap<String, Vec<Found>> = HashMap::new();
        for (se, _) in self.snapshot.all("serviceengine") {
            let state = self.registry.get(se);
            if state.connected_since.is_none() {
                continue;
            }
            let told = state.desired.iter().flat_map(|d| &d.pools);
            let told = told.filter(|p| pools.contains(&p.uuid));
            let checked = told.filter(|p| !p.health_monitor_uuids.is_empty());
            let checked: BTreeSet<&str> = checked.map(|p| p.uuid.as_str()).collect();
            let own = state.report.iter().flat_map(|r| &r.pools);
            for pool in own.filter(|p| pools.contains(&p.uuid)) {
                let bare = PoolStatus {
                    uuid: pool.uuid.clone(),
                    state: pool.state,
                    ..PoolStatus::default()
                };
                let found = (checked.contains(pool.uuid.as_str()), (se.to_owned(), bare));
                reports.entry(pool.uuid.clone()).or_default().push(found);
            }
        }
        reports
    }
}

/// As [`service_status`] reads it.
fn shown(row: &Row<'_>, word: &str) -> Value {
    json!({"standby": row.standby, "oper_status": {"state": word}})
}
