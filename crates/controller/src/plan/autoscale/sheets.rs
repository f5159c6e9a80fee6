//! What engines say at one moment, by VIP.

use super::window::{Carried, Counted};
use crate::engines::Registry;
use crate::objects::{Snapshot, Stored};
use model::view::Ref;
use proto::v1::EngineLoad;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// uuids of VsVips by uuid of the virtual service, as of a revision of the objects.
#[derive(Default)]
pub(super) struct Services {
    revision: u64,
    vsvips: HashMap<String, String>,
}

impl Services {
    pub(super) fn refresh(&mut self, snapshot: &Snapshot) {
        if self.revision == snapshot.revision {
            return;
        }
        let all = snapshot.all("virtualservice");
        let of = |(uuid, stored): (&str, &Arc<Stored>)| {
            let vsvip = stored.object.get("vsvip_ref")?.as_str()?;
            Some((uuid.to_owned(), Ref(vsvip.to_owned()).uuid().to_owned()))
        };
        self.vsvips = all.filter_map(of).collect();
        self.revision = snapshot.revision;
    }
}

/// What engines with a session say at one moment; of each engine it is put together once.
pub(super) struct Sheets<'a> {
    registry: &'a Registry,
    services: &'a Services,
    made: BTreeMap<String, Option<Sheet>>,
}

/// Of one engine.
struct Sheet {
    load: Option<Arc<EngineLoad>>,
    all: Counted,
    /// By uuid of the VsVip.
    vips: HashMap<String, Counted>,
}

impl<'a> Sheets<'a> {
    pub(super) fn new(registry: &'a Registry, services: &'a Services) -> Self {
        Self {
            registry,
            services,
            made: BTreeMap::new(),
        }
    }

    /// What the engine carries, and of that, of this VIP; nothing where that is not known.
    pub(super) fn carried(&mut self, engine: &str, vsvip: &str) -> Option<Carried> {
        if !self.made.contains_key(engine) {
            let sheet = self.make(engine);
            self.made.insert(engine.to_owned(), sheet);
        }
        let sheet = self.made.get(engine)?.as_ref()?;
        Some(Carried {
            load: sheet.load.clone(),
            all: sheet.all,
            own: sheet.vips.get(vsvip).copied().unwrap_or_default(),
        })
    }

    fn make(&self, engine: &str) -> Option<Sheet> {
        let state = self.registry.get(engine);
        state.connected_since?;
        let report = state.report?;
        let mut sheet = Sheet {
            load: report.stats.and_then(|s| s.load).map(Arc::new),
            all: Counted::default(),
            vips: HashMap::new(),
        };
        for status in &report.virtual_services {
            let counted = Counted::of(status);
            sheet.all.add(counted);
            if let Some(vsvip) = self.services.vsvips.get(&status.uuid) {
                sheet.vips.entry(vsvip.clone()).or_default().add(counted);
            }
        }
        Some(sheet)
    }
}
