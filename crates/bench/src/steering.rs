//! What the steering program costs per packet (BPF_PROG_TEST_RUN), beside bare programs that do one thing each.
//!
//! Every packet is a fresh one of the next flow (`bpf/bench/bare.c`). In each round every case runs once, and what the driver costs in that
//! round is taken off it, so that a machine that changes its pace changes both; medians of the rounds are shown, and ratios are
//! medians of the rounds' ratios. What the counters say must be what the case is about: a wrong verdict fails.
//!
//! First the flows of other engines, while this one has no connection; then with as many connections of ours as flows.

mod driver;
mod ground;
mod table;

use anyhow::{Result, bail, ensure};
use cli::output::Format;
use driver::{Driver, FLOWS_MAX, Front, Packets, Target};
use ground::Ground;
use std::collections::BTreeMap;

/// Numbers of flows, powers of two.
const LEVELS: [usize; 4] = [1, 1 << 12, 1 << 16, FLOWS_MAX];
/// Packets of a run, at least: some ten milliseconds.
const PACKETS_LEAST: usize = 1 << 17;
/// The cache of the program under test: room for all flows without eviction.
const CACHE: usize = FLOWS_MAX + (1 << 16);
/// Calls of the same helper in the programs that measure it, less one.
const TIMES_MORE: f64 = 7.0;

/// How much to measure.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// Times that everything is measured.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Seconds: 3 rounds, 1 and 4,096 flows. The verdicts must be right; the times are not judged.
    #[arg(long)]
    short: bool,
}

impl Args {
    fn rounds(self) -> usize {
        if self.short { 3 } else { self.rounds.max(1) }
    }

    fn levels(self) -> &'static [usize] {
        if self.short { &LEVELS[..2] } else { &LEVELS }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    NotOurs,
    Established,
    Hint,
    HintBeside,
    Cache,
    Decapsulate,
    Forged,
    FrontNotOurs,
    FrontHint,
    FrontCache,
    FrontForged,
    Xdp,
    Vip,
    Socket,
    Encap,
    SocketEncap,
    SocketEncapBeside,
    LruEncap,
    Driver,
}

/// How a case is measured, and what it has to come to.
struct Recipe {
    target: Target,
    packets: Packets,
    /// The counter that counts each packet.
    verdict: Option<&'static str>,
    /// With as many connections of ours as flows.
    beside: bool,
}

impl Case {
    const ALL: [Self; 19] = [
        Self::NotOurs,
        Self::Established,
        Self::Hint,
        Self::HintBeside,
        Self::Cache,
        Self::Decapsulate,
        Self::Forged,
        Self::FrontNotOurs,
        Self::FrontHint,
        Self::FrontCache,
        Self::FrontForged,
        Self::Vip,
        Self::Socket,
        Self::Encap,
        Self::SocketEncap,
        Self::SocketEncapBeside,
        Self::LruEncap,
        Self::Xdp,
        Self::Driver,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::NotOurs => "not ours at all",
            Self::Established => "established, local",
            Self::Hint => "hint -> tunnel",
            Self::HintBeside => "hint -> tunnel, beside as many connections of ours",
            Self::Cache => "cache -> tunnel",
            Self::Decapsulate => "decapsulate, local",
            Self::Forged => "forged ACK, over budget",
            Self::FrontNotOurs => "native XDP: not ours at all",
            Self::FrontHint => "native XDP: hint -> tunnel",
            Self::FrontCache => "native XDP: cache -> tunnel",
            Self::FrontForged => "native XDP: forged ACK, over budget",
            Self::Vip => "bare: parse + VIP lookup",
            Self::Socket => "bare: socket lookup, established",
            Self::Encap => "bare: encapsulation",
            Self::SocketEncap => "bare: socket lookup + encapsulation",
            Self::SocketEncapBeside => "bare: the same, beside as many connections of ours",
            Self::LruEncap => "bare: LRU lookup + encapsulation",
            Self::Xdp => "bare: XDP_TX",
            Self::Driver => "the driver, which is taken off all others",
        }
    }

    /// None: it is measured in a way of its own.
    fn recipe(self) -> Option<Recipe> {
        let steer = |packets, verdict, beside| {
            let target = Target::Steer;
            Some((target, packets, verdict, beside))
        };
        let bare = |target, packets, beside| Some((target, packets, None, beside));
        let (target, packets, verdict, beside) = match self {
            Self::NotOurs => steer(Packets::Foreign, None, false),
            Self::Established => steer(Packets::Local, Some("local_socket"), true),
            Self::Hint => steer(Packets::Hinted, Some("tunnel_hint"), false),
            Self::HintBeside => steer(Packets::Hinted, Some("tunnel_hint"), true),
            Self::Cache => steer(Packets::Cached, Some("tunnel_cache"), false),
            Self::Decapsulate => steer(Packets::Tunnelled, Some("deliver_data"), true),
            Self::Forged => steer(Packets::Forged, Some("drop_budget"), false),
            Self::Vip => bare(Target::Vip, Packets::Foreign, false),
            Self::Socket => bare(Target::Socket, Packets::Local, true),
            Self::Encap => bare(Target::Encap, Packets::Hinted, false),
            Self::SocketEncap => bare(Target::SocketEncap, Packets::Hinted, false),
            Self::SocketEncapBeside => bare(Target::SocketEncap, Packets::Hinted, true),
            Self::LruEncap => bare(Target::LruEncap, Packets::Cached, false),
            Self::FrontNotOurs | Self::FrontHint | Self::FrontCache | Self::FrontForged => None,
            Self::Xdp | Self::Driver => None,
        }?;
        Some(Recipe {
            target,
            packets,
            verdict,
            beside,
        })
    }
}

impl Case {
    /// Of native XDP: what it is shown, and the counter that counts each packet.
    const FRONT: [(Self, Packets, Option<&'static str>); 4] = [
        (Self::FrontNotOurs, Packets::Foreign, None),
        (Self::FrontHint, Packets::Hinted, Some("tunnel_hint")),
        (Self::FrontCache, Packets::Cached, Some("tunnel_cache")),
        (Self::FrontForged, Packets::Forged, Some("drop_budget")),
    ];
}

/// Nanoseconds by case and number of flows, one per round.
#[derive(Debug, Default)]
struct Samples(BTreeMap<(Case, usize), Vec<f64>>);

impl Samples {
    fn add(&mut self, case: Case, flows: usize, ns: f64) {
        self.0.entry((case, flows)).or_default().push(ns);
    }

    fn of(&self, case: Case, flows: usize) -> &[f64] {
        self.0.get(&(case, flows)).map_or(&[], Vec::as_slice)
    }
}

/// Prints what was measured; fails when a target is missed or a verdict was not the one that a case is about.
pub(crate) fn run(args: Args, output: Format) -> Result<()> {
    let mut bench = Bench::new()?;
    let alone = bench.measure(args, false)?;
    let beside = bench.measure(args, true)?;
    let report = table::Report::new(&bench.samples, &alone, &beside);
    table::print(&report, output);
    if args.short {
        return Ok(());
    }
    report.judge()
}

struct Bench {
    ground: Ground,
    driver: Driver,
    samples: Samples,
    /// That have had their share of the budget.
    networks: u16,
}

impl Bench {
    fn new() -> Result<Self> {
        let mut ground = Ground::new(CACHE)?;
        let front = ground.steering.program_in_front()?.try_clone()?;
        let driver = Driver::new(ground.steering.program()?, &front)?;
        Ok(Self {
            ground,
            driver,
            samples: Samples::default(),
            networks: 0,
        })
    }

    /// The numbers of flows that it was done with.
    fn measure(&mut self, args: Args, beside: bool) -> Result<Vec<usize>> {
        let mut levels = Vec::new();
        for &wanted in args.levels() {
            let flows = if beside {
                self.ground.connect(wanted)?
            } else {
                wanted
            };
            if flows < wanted {
                cli::note!("only {flows} connections instead of {wanted}: not enough memory");
            }
            if !levels.contains(&flows) {
                self.level(args, flows, beside)?;
                levels.push(flows);
            }
        }
        Ok(levels)
    }

    fn level(&mut self, args: Args, flows: usize, beside: bool) -> Result<()> {
        let of = if beside { "ours" } else { "others'" };
        cli::note!("{flows} flows, {of}");
        self.driver.set_flows(flows)?;
        if !beside {
            self.fill_caches(flows)?;
        }
        // The first round warms up and does not count.
        for round in 0..=args.rounds() {
            let costs = self.round(flows, beside)?;
            for (case, ns) in costs.into_iter().filter(|_| round > 0) {
                self.samples.add(case, flows, ns);
            }
        }
        Ok(())
    }

    /// Of the program under test by its own doing: we drain, so a SYN is handed to a member and remembered.
    fn fill_caches(&mut self, flows: usize) -> Result<()> {
        let repeat = u32::try_from(flows)?;
        let before = self.count("tunnel_new")?;
        self.driver.run(Target::Steer, Packets::CachedSyn, repeat)?;
        let filled = self.count("tunnel_new")? - before;
        ensure!(
            filled == u64::from(repeat),
            "{filled} of {repeat} flows came into the cache"
        );
        self.driver.run(Target::LruFill, Packets::Cached, repeat)?;
        Ok(())
    }

    /// Everything once, less what the driver and putting back cost at this time.
    fn round(&mut self, flows: usize, beside: bool) -> Result<Vec<(Case, f64)>> {
        let repeat = u32::try_from(flows.max(PACKETS_LEAST))?;
        let put_back = self.put_back(repeat)?;
        let nothing = Target::Nothing;
        let driver = self.driver.run(nothing, Packets::Hinted, repeat)?.ns;
        let mut costs = Vec::new();
        if !beside {
            costs.push((Case::Driver, driver));
            costs.push((Case::Xdp, self.driver.xdp_tx(repeat)?));
            costs.extend(self.front(repeat)?);
        }
        for case in Case::ALL {
            let Some(recipe) = case.recipe().filter(|r| r.beside == beside) else {
                continue;
            };
            let took = self.checked(case, &recipe, repeat)?;
            let back = match took.grown {
                0 => 0.0,
                1.. => put_back.off,
                _ => put_back.on,
            };
            costs.push((case, took.ns - driver - back));
        }
        Ok(costs)
    }

    /// Native XDP, less what its own driver costs, and putting back where the frame has grown.
    fn front(&mut self, repeat: u32) -> Result<Vec<(Case, f64)>> {
        let least = repeat.min(u32::try_from(PACKETS_LEAST)?);
        let mut bare = |target, repeat| self.driver.run_front(target, Packets::Hinted, repeat);
        let driver = bare(Front::Nothing, repeat)?;
        let off = bare(Front::OffOften, least)? - bare(Front::OffOnce, least)?;
        let off = off / TIMES_MORE;
        let mut costs = Vec::new();
        for (case, packets, verdict) in Case::FRONT {
            let ns = self.front_case(case, packets, verdict, repeat)?;
            let grown = matches!(verdict, Some("tunnel_hint" | "tunnel_cache"));
            costs.push((case, ns - driver - if grown { off } else { 0.0 }));
        }
        Ok(costs)
    }

    /// What it takes, with the driver. XDP spends nothing: where the budget is full again in the middle, the rest goes on to tc, and
    /// the run is made again.
    fn front_case(
        &mut self,
        case: Case,
        packets: Packets,
        verdict: Option<&'static str>,
        repeat: u32,
    ) -> Result<f64> {
        let wanted = verdict.map_or(0, |_| u64::from(repeat));
        let (mut counted, mut all) = (0, 0);
        for _ in 0..ATTEMPTS {
            if case == Case::FrontForged {
                self.spend_budget()?;
            }
            let before = self.ground.steering.counters()?.verdicts;
            let ns = self.driver.run_front(Front::Steer, packets, repeat)?;
            let after = self.ground.steering.counters()?.verdicts;
            counted = verdict.map_or(0, |v| after[v] - before[v]);
            all = after.values().sum::<u64>() - before.values().sum::<u64>();
            // Some are left to tc: one per second and member, and what is asked about.
            if all <= wanted && counted * 100 >= wanted * 98 {
                return Ok(ns);
            }
        }
        bail!(
            "{}: {counted} of {repeat} packets were counted as {verdict:?}, {all} in all",
            case.words()
        )
    }

    /// What the driver does to a frame that has grown or shrunk: eight calls less one.
    fn put_back(&mut self, repeat: u32) -> Result<PutBack> {
        let repeat = repeat.min(u32::try_from(PACKETS_LEAST)?);
        let mut ns =
            |target| -> Result<f64> { Ok(self.driver.run(target, Packets::Hinted, repeat)?.ns) };
        let mut difference = |often, once| -> Result<f64> { Ok(ns(often)? - ns(once)?) };
        Ok(PutBack {
            off: difference(Target::OffOften, Target::OffOnce)? / TIMES_MORE,
            on: difference(Target::OnOften, Target::OnOnce)? / TIMES_MORE,
        })
    }

    fn checked(&mut self, case: Case, recipe: &Recipe, repeat: u32) -> Result<driver::Took> {
        if case == Case::Forged {
            self.spend_budget()?;
        }
        let before = self.ground.steering.counters()?.verdicts;
        let took = self.driver.run(recipe.target, recipe.packets, repeat)?;
        let after = self.ground.steering.counters()?.verdicts;
        let counted: BTreeMap<&str, u64> = after
            .iter()
            .filter(|(verdict, n)| before[*verdict] < **n)
            .map(|(verdict, n)| (*verdict, n - before[verdict]))
            .collect();
        ensure!(
            is_about(case, recipe, repeat, &counted),
            "{}: {repeat} packets were counted as {counted:?}",
            case.words()
        );
        Ok(took)
    }

    /// If there is something left, one packet takes it: copies for a full group last for half a minute. Of another network each
    /// time, since each has only a share.
    fn spend_budget(&mut self) -> Result<()> {
        let mut frame = Packets::Forged.frame();
        self.networks = self.networks.wrapping_add(1);
        let [high, low] = self.networks.to_be_bytes();
        frame[driver::CLIENT_AT..driver::CLIENT_AT + 4].copy_from_slice(&[192, high, low, 1]);
        self.ground.steering.try_out(&frame, 1)?;
        Ok(())
    }

    fn count(&self, verdict: &str) -> Result<u64> {
        Ok(self.ground.steering.counters()?.verdicts[verdict])
    }
}

/// Runs of a case in native XDP before it is given up.
const ATTEMPTS: usize = 3;

/// Nanoseconds.
struct PutBack {
    off: f64,
    on: f64,
}

/// Whether each packet was counted as what the case measures; of forged ones a few may have been asked about.
fn is_about(case: Case, recipe: &Recipe, repeat: u32, counted: &BTreeMap<&str, u64>) -> bool {
    let of = |verdict| counted.get(verdict).copied().unwrap_or_default();
    let repeat = u64::from(repeat);
    match (case, recipe.verdict) {
        (Case::Forged, Some(verdict)) => {
            of(verdict) + of("drop_asked") + of("probe") == repeat
                && of(verdict) * 100 > repeat * 98
        }
        (_, Some(verdict)) => counted.len() == 1 && of(verdict) == repeat,
        (_, None) => counted.is_empty(),
    }
}
