//! Whether a VIP is to be on one engine more or fewer, by what its engines carry (`auto_rebalance` of the SE group,
//! avi-api `ServiceEngineGroup`). Loads come in, a decision with its numbers goes out.
//!
//! Scaling moves no flow, so an engine that is full stays full for a while after a scale-out. What is judged is therefore
//! the level that an engine would have if all of them had an equal part of the VIP's load:
//!
//! ```text
//! level(n) = load of the VIP on all engines that have flows of it / n  +  what else is on an engine, on average
//!
//! out: level(n) is above max_percent of the capacity, by one criterion at least
//! in:  level(n) is below min_percent by every criterion, and level(n - 1) at most KEPT_FREE below max_percent
//! ```
//!
//! Under a load that does not change no step is followed by its opposite: after a scale-out to n + 1 the level of n is
//! still above `max_percent`, which forbids the scale-in; after a scale-in to n - 1 the level of n - 1 was below it.

use std::fmt;

/// A scale-in leaves so much room below `max_percent`, as a part of it: loads are never quite the same.
const KEPT_FREE: f64 = 0.1;
/// Sums of the same numbers in another order differ by less.
const ROUNDING: f64 = 1e-9;

/// What load is measured by (`auto_rebalance_criteria`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Criterion {
    /// Processors' time in use, in percent.
    Cpu,
    /// Packets received per second.
    Pps,
    /// Megabits received per second.
    Mbps,
    /// Connections that are open; of UDP, flows.
    OpenConns,
    /// Connections that begin per second; of UDP, flows.
    Cps,
}

impl Criterion {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Pps, Self::Mbps, Self::OpenConns, Self::Cps];

    /// Its word in `auto_rebalance_criteria`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "SE_AUTO_REBALANCE_CPU",
            Self::Pps => "SE_AUTO_REBALANCE_PPS",
            Self::Mbps => "SE_AUTO_REBALANCE_MBPS",
            Self::OpenConns => "SE_AUTO_REBALANCE_OPEN_CONNS",
            Self::Cps => "SE_AUTO_REBALANCE_CPS",
        }
    }

    /// The criterion of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.word() == word)
    }

    /// What one engine is taken to carry where `auto_rebalance_capacity_per_se` does not say it, in the unit of the
    /// criterion: all processors; and for the others a small engine, of two processors and a link of 1 Gbit/s.
    pub fn usual_capacity(self) -> u32 {
        match self {
            Self::Cpu => 100,
            Self::Pps => 200_000,
            Self::Mbps => 1_000,
            Self::OpenConns => 20_000,
            Self::Cps => 2_000,
        }
    }

    /// What its numbers count, for people.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "% of the processors",
            Self::Pps => "packets/s",
            Self::Mbps => "Mbit/s",
            Self::OpenConns => "open connections",
            Self::Cps => "connections/s",
        }
    }
}

/// A criterion with what one engine can carry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// What is measured.
    pub criterion: Criterion,
    /// Of one engine, in the criterion's unit; more than 0.
    pub capacity: f64,
}

/// What the SE group says.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// `auto_rebalance_criteria` with `auto_rebalance_capacity_per_se`.
    pub limits: Vec<Limit>,
    /// `max_cpu_usage`, of whatever criterion's capacity.
    pub max_percent: f64,
    /// `min_cpu_usage`, of whatever criterion's capacity.
    pub min_percent: f64,
    /// `auto_rebalance_interval`, in seconds: loads are measured for so long, and so long nothing is done after a change.
    pub interval_s: u64,
    /// Fewest engines of the VIP; see [`crate::Ha::fewest`].
    pub fewest: usize,
    /// Most engines of the VIP; see [`crate::Ha::most`].
    pub most: usize,
}

/// What an engine carries by one criterion, over the interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// All of it, whoever makes it.
    pub total: f64,
    /// Of that, the VIP's.
    pub own: f64,
}

impl Load {
    fn others(self) -> f64 {
        (self.total - self.own).max(0.0)
    }
}

/// An engine that has flows of the VIP.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineLoad {
    /// Its name, for people.
    pub name: String,
    /// VIPs that it has, this one too.
    pub vips: usize,
    /// In the order of [`Policy::limits`]; `None` where it is not known.
    pub loads: Vec<Option<Load>>,
}

/// A VIP and the engines that have flows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Vip {
    /// Engines that it is placed on.
    pub serving: Vec<EngineLoad>,
    /// Engines that were scaled in and have flows of it left. What they carry of it counts, as far as it is known: their
    /// clients come back.
    pub lingering: Vec<EngineLoad>,
    /// For how long its placement has not changed, in seconds.
    pub unchanged_s: u64,
    /// A scale-out, scale-in, migration or switchover of it is under way.
    pub under_way: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// One engine more.
    Out,
    /// One engine fewer.
    In,
}

impl Step {
    /// In the words of `ScaleStatus` (avi-api 10.2); `NONE` for nothing.
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "NONE",
            Self::Out => "SCALE_OUT",
            Self::In => "SCALE_IN",
        }
    }
}

/// How full engines are by one criterion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// What is measured, and what one engine can carry.
    pub limit: Limit,
    /// Engines that it is placed on.
    pub engines: usize,
    /// The VIP's load on all engines, in the criterion's unit.
    pub load: f64,
    /// What else is on one of its engines, on average.
    pub others: f64,
    /// Level now, in percent of the capacity.
    pub percent: f64,
    /// Level with one engine more.
    pub percent_with_one_more: f64,
    /// Level with one engine fewer; `None` with one engine.
    pub percent_with_one_fewer: Option<f64>,
}

/// Why.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// The level is above the greatest.
    LoadHigh(Figure),
    /// The level is below the least by every criterion; this one is the highest.
    LoadLow(Figure),
    /// The level is between both; this one is the highest.
    WithinLimits(Figure),
    /// The level is above the greatest, and the VIP is on as many engines as it may be.
    AtMaximum(Figure, usize),
    /// The level is below the least, and the VIP is on as few engines as it may be.
    AtMinimum(Figure, usize),
    /// The level is below the least, and with one engine fewer it would be too near the greatest.
    WouldBeHigh(Figure),
    /// The level is above the greatest, and it is something else that makes it so.
    OthersAreHeavier(Figure),
    /// Its placement has changed; so many seconds are left until it is looked at again.
    CoolingDown(u64),
    /// A change of its placement is under way.
    UnderWay,
    /// This engine has not said what it carries.
    NoFigures(String),
    /// No engine has it.
    NotPlaced,
}

impl Why {
    /// snake_case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LoadHigh(_) => "load_high",
            Self::LoadLow(_) => "load_low",
            Self::WithinLimits(_) => "load_within_limits",
            Self::AtMaximum(..) => "at_maximum",
            Self::AtMinimum(..) => "at_minimum",
            Self::WouldBeHigh(_) => "load_would_be_high",
            Self::OthersAreHeavier(_) => "others_are_heavier",
            Self::CoolingDown(_) => "cooling_down",
            Self::UnderWay => "under_way",
            Self::NoFigures(_) => "no_figures",
            Self::NotPlaced => "not_placed",
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What is to be done.
    pub step: Step,
    /// Why.
    pub why: Why,
    /// How full engines are, in the order of [`Policy::limits`]; empty where that is not known or not looked at.
    pub figures: Vec<Figure>,
    /// `max_cpu_usage` and `min_cpu_usage` that it was judged by.
    pub bounds_percent: (f64, f64),
}

/// What is to be done with the VIP.
pub fn decide(policy: &Policy, vip: &Vip) -> Decision {
    let keep = |why| (Step::Keep, why);
    let mut figures = Vec::new();
    let (step, why) = match rest(policy, vip) {
        Some(why) => keep(why),
        None => {
            let limits = policy.limits.iter().enumerate();
            figures = limits.filter_map(|(i, l)| figure(*l, i, vip)).collect();
            judge(policy, vip, &figures).unwrap_or_else(|| keep(Why::NoFigures(String::new())))
        }
    };
    Decision {
        step,
        why,
        figures,
        bounds_percent: (policy.max_percent, policy.min_percent),
    }
}

/// Why the loads are not even looked at.
fn rest(policy: &Policy, vip: &Vip) -> Option<Why> {
    if vip.serving.is_empty() {
        return Some(Why::NotPlaced);
    }
    if vip.under_way {
        return Some(Why::UnderWay);
    }
    if vip.unchanged_s < policy.interval_s {
        return Some(Why::CoolingDown(policy.interval_s - vip.unchanged_s));
    }
    let is_known = |e: &&EngineLoad| (0..policy.limits.len()).all(|i| load(e, i).is_some());
    let unknown = vip.serving.iter().find(|e| !is_known(e))?;
    Some(Why::NoFigures(unknown.name.clone()))
}

fn load(engine: &EngineLoad, index: usize) -> Option<Load> {
    engine.loads.get(index).copied().flatten()
}

/// Nothing where no criterion is given.
fn judge(policy: &Policy, vip: &Vip, figures: &[Figure]) -> Option<(Step, Why)> {
    let by_level = |a: &&Figure, b: &&Figure| a.percent.total_cmp(&b.percent);
    let highest = *figures.iter().max_by(by_level)?;
    Some(if highest.percent > policy.max_percent {
        too_high(policy, vip, highest)
    } else if highest.percent < policy.min_percent {
        too_low(policy, vip, figures, highest)
    } else {
        (Step::Keep, Why::WithinLimits(highest))
    })
}

fn too_high(policy: &Policy, vip: &Vip, highest: Figure) -> (Step, Why) {
    if vip.serving.len() >= policy.most {
        return (Step::Keep, Why::AtMaximum(highest, policy.most));
    }
    match has_its_part(policy, vip, highest) {
        true => (Step::Out, Why::LoadHigh(highest)),
        false => (Step::Keep, Why::OthersAreHeavier(highest)),
    }
}

/// Whether the VIP's load is at least what would be its part if all that load its engines were alike. The heaviest VIP of an
/// engine has, so that of many VIPs on a full engine not all are scaled out; and none where it is something else that fills
/// them, which another engine would not change.
fn has_its_part(policy: &Policy, vip: &Vip, figure: Figure) -> bool {
    let index = policy.limits.iter().position(|l| *l == figure.limit);
    let own = figure.load / figure.engines as f64;
    let part = |e: &EngineLoad| {
        let others = load(e, index?)?.others();
        // Whoever the others are, they are one at least.
        let parties = e.vips.max(1 + usize::from(others > 0.0));
        Some((own + others) / parties as f64)
    };
    let parts: f64 = vip.serving.iter().filter_map(part).sum();
    figure.load >= parts * (1.0 - ROUNDING)
}

fn too_low(policy: &Policy, vip: &Vip, figures: &[Figure], highest: Figure) -> (Step, Why) {
    if vip.serving.len() <= policy.fewest {
        return (Step::Keep, Why::AtMinimum(highest, policy.fewest));
    }
    let most = policy.max_percent * (1.0 - KEPT_FREE);
    let is_too_full = |f: &&Figure| f.percent_with_one_fewer.is_none_or(|p| p > most);
    match figures.iter().find(is_too_full) {
        Some(figure) => (Step::Keep, Why::WouldBeHigh(*figure)),
        None => (Step::In, Why::LoadLow(highest)),
    }
}

/// By the criterion of this index; nothing where no engine has the VIP.
fn figure(limit: Limit, index: usize, vip: &Vip) -> Option<Figure> {
    let all = vip.serving.iter().chain(&vip.lingering);
    let own: f64 = all.filter_map(|e| load(e, index)).map(|l| l.own).sum();
    let serving = vip.serving.iter().filter_map(|e| load(e, index));
    let mut others: Vec<f64> = serving.map(Load::others).collect();
    // Which engine will go is not known here: it is taken to be the one that the others of which are lightest.
    others.sort_by(f64::total_cmp);
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len().max(1) as f64;
    let level = |n: usize, others: f64| 100.0 * (own / n as f64 + others) / limit.capacity;
    let engines = vip.serving.len();
    let fewer = engines.checked_sub(1)?;
    Some(Figure {
        limit,
        engines,
        load: own,
        others: mean(&others),
        percent: level(engines, mean(&others)),
        percent_with_one_more: level(engines + 1, mean(&others)),
        percent_with_one_fewer: (fewer > 0).then(|| level(fewer, mean(&others[1..]))),
    })
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (max, min) = self.bounds_percent;
        let (max, min) = (
            format!("{max:.0} % (max_cpu_usage)"),
            format!("{min:.0} % (min_cpu_usage)"),
        );
        match &self.why {
            Why::LoadHigh(figure) => {
                let more = figure.percent_with_one_more;
                let n = figure.engines + 1;
                write!(f, "{figure}, above {max}; on {n} it would be {more:.0} %")
            }
            Why::LoadLow(figure) => {
                let fewer = figure.percent_with_one_fewer.unwrap_or_default();
                let n = figure.engines.saturating_sub(1);
                write!(f, "{figure}, below {min}; on {n} it would be {fewer:.0} %")
            }
            Why::WithinLimits(figure) => write!(f, "{figure}, not above {max} nor below {min}"),
            Why::AtMaximum(figure, most) => write!(
                f,
                "{figure}, above {max}, and {most} is the maximum (max_scaleout_per_vs of its SE group; 2 with HA_MODE_LEGACY_ACTIVE_STANDBY)"
            ),
            Why::AtMinimum(figure, fewest) => write!(
                f,
                "{figure}, and {fewest} is the minimum (min_scaleout_per_vs of its SE group; 2 with an ha_mode of pairs)"
            ),
            Why::WouldBeHigh(figure) => {
                let fewer = figure.percent_with_one_fewer.unwrap_or_default();
                write!(
                    f,
                    "{figure}, below {min}, and with one fewer it would be {fewer:.0} %, too near {max}"
                )
            }
            Why::OthersAreHeavier(figure) => write!(
                f,
                "{figure}, above {max}, and what else its service engines carry is heavier"
            ),
            Why::CoolingDown(left_s) => write!(
                f,
                "its placement has changed; its load is measured for {left_s} s more (auto_rebalance_interval)"
            ),
            Why::UnderWay => write!(f, "a change of its placement is under way"),
            Why::NoFigures(name) if name.is_empty() => {
                write!(f, "there is no criterion to judge its load by")
            }
            Why::NoFigures(name) => write!(
                f,
                "{name} has not said what it carries: it has no session, has just joined, or is older"
            ),
            Why::NotPlaced => write!(f, "it is placed on no service engine"),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit {
            criterion,
            capacity,
        } = self.limit;
        let unit = criterion.unit();
        write!(f, "{} {unit}", short(self.load))?;
        match self.engines {
            1 => write!(f, " on 1 service engine")?,
            n => write!(f, " on {n} service engines")?,
        }
        let (percent, capacity) = (self.percent, short(capacity));
        if short(self.others) != "0" {
            write!(f, ", beside {} of others on each,", short(self.others))?;
        }
        write!(f, " are {percent:.0} % of a capacity of {capacity} each")
    }
}

/// A number as people read it.
fn short(number: f64) -> String {
    match number {
        n if n == 0.0 || n >= 9.95 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    }
}

#[cfg(test)]
mod tests;
