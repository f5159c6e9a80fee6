//! One event (`EventLog` of avi-api section 11).

use crate::access::{ADMIN_TENANT, tenant_of};
use crate::clock::rfc3339;
use crate::objects::Snapshot;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest text of an event, in bytes.
const TEXT_LEN_MAX: usize = 1000;
/// Related objects that an event names.
const RELATED_MAX: usize = 20;

/// The events that there are: their words, the part of the controller that tells, and of what kind they are.
macro_rules! ids {
    ($($name:ident $code:literal $module:literal $context:literal $page:literal, $about:literal;)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Id { $(#[doc = $about] $name,)* }

        impl Id {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `event_id`.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// `module`.
            pub fn module(self) -> &'static str {
                match self { $(Self::$name => $module,)* }
            }

            /// `context`.
            pub fn context(self) -> &'static str {
                match self { $(Self::$name => $context,)* }
            }

            /// The one item of `event_pages`.
            pub fn page(self) -> &'static str {
                match self { $(Self::$name => $page,)* }
            }

            /// `event_description`: what it means, whatever the object.
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => $about,)* }
            }
        }
    };
}

ids! {
    ConfigCreate "CONFIG_CREATE" "CONFIG" "EVENT_CONTEXT_CONFIG" "EVENT_PAGE_CFG", "An object was created.";
    ConfigUpdate "CONFIG_UPDATE" "CONFIG" "EVENT_CONTEXT_CONFIG" "EVENT_PAGE_CFG", "An object was changed.";
    ConfigDelete "CONFIG_DELETE" "CONFIG" "EVENT_CONTEXT_CONFIG" "EVENT_PAGE_CFG", "An object was deleted.";
    UserLogin "USER_LOGIN" "CONFIG" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_CFG", "Somebody logged in, or was refused.";
    UserLogout "USER_LOGOUT" "CONFIG" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_CFG", "A user logged out.";
    VsUp "VS_UP" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service is up on an engine.";
    VsDown "VS_DOWN" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service is up on no engine any more.";
    VipUp "VIP_UP" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A VIP is announced by an engine.";
    VipDown "VIP_DOWN" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A VIP is announced by no engine any more.";
    PoolUp "POOL_UP" "HS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_POOL", "A pool has a server that is up.";
    PoolDown "POOL_DOWN" "HS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_POOL", "No server of a pool is up.";
    ServerUp "SERVER_UP" "HS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_POOL", "An engine reaches a server.";
    ServerDown "SERVER_DOWN" "HS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_POOL", "No engine reaches a server.";
    SeUp "SE_UP" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "An engine has a session with the controller.";
    SeDown "SE_DOWN" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "An engine has no session with the controller any more.";
    BgpPeerStateChange "SE_BGP_PEER_STATE_CHANGE" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "A BGP session of an engine came up or went down.";
    BgpPeerDown "SE_BGP_PEER_DOWN" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "A BGP session of an engine went down.";
    VipScaleout "VIP_SCALEOUT" "VS_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_VS", "A VIP was placed on one engine more.";
    VipScaleoutFailed "VIP_SCALEOUT_FAILED" "VS_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_VS", "No engine was found for a VIP.";
    VipScalein "VIP_SCALEIN" "VS_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_VS", "A VIP was taken off an engine, which keeps its connections until they end.";
    VipScaleinFailed "VIP_SCALEIN_FAILED" "VS_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_VS", "A VIP was not taken off an engine.";
    VipSwitchover "VIP_SWITCHOVER" "VS_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_VS", "The standby of a VIP became its active engine.";
    VipSwitchoverFailed "VIP_SWITCHOVER_FAILED" "VS_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_VS", "The engine that was to become active did not serve in time, and is the standby again.";
    VsSwitchover "VS_SWITCHOVER" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "The standby of a virtual service is its active engine, and nothing is waited for any more.";
    VsSwitchoverFailed "VS_SWITCHOVER_FAILED" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "The engine that was to become active did not serve in time, and is the standby again.";
    VsMigrateStarted "VS_MIGRATE_STARTED" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service was placed on an engine that is to take the place of another one.";
    VsMigrateComplete "VS_MIGRATE_COMPLETE" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "That engine has the place, and the other one keeps its connections until they end.";
    VsMigrateFailed "VS_MIGRATE_FAILED" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service was not migrated, or not up there in time; the other engine keeps its place.";
    VsScaleoutComplete "VS_SCALEOUT_COMPLETE" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service is up on the engine that it was scaled out to.";
    VsScaleoutFailed "VS_SCALEOUT_FAILED" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service was not scaled out, or is not up there in time.";
    VsScaleinComplete "VS_SCALEIN_COMPLETE" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "An engine that a virtual service was scaled in from has nothing left of it.";
    VsScaleinFailed "VS_SCALEIN_FAILED" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service was not scaled in.";
    VsAutoscaleRecommended "VS_AUTOSCALE_RECOMMENDED" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "The load of a virtual service asks for one engine more, one fewer, or neither any more; auto_rebalance is off.";
    VsSeHaActive "VS_SE_HA_ACTIVE" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service is on as many engines again as its SE group asks for.";
    VsSeHaCompromised "VS_SE_HA_COMPROMISED" "VS_MGR" "EVENT_CONTEXT_APP" "EVENT_PAGE_VS", "A virtual service is on fewer engines than its SE group asks for; of a pair, the standby counts as well.";
    SeScaleoutReady "SE_SCALEOUT_READY" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "All engines of a VIP know the one that joins; it announces.";
    SeScaleoutReadyTimedout "SE_SCALEOUT_READY_TIMEDOUT" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "An engine that joins does not serve in time; or not all engines of its VIP have confirmed it, and it announces all the same.";
    SeScaleinReady "SE_SCALEIN_READY" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "An engine that was scaled in has no connection of the VIP left; it leaves when that has been so for a while.";
    SeScaleinReadyTimedout "SE_SCALEIN_READY_TIMEDOUT" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "An engine that was scaled in has connections of the VIP left when vs_scalein_timeout is over; they go on.";
    SeDpHbFailed "SE_DP_HB_FAILED" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "An engine that was heard before answers the hellos of another one no more.";
    SeDpHbRecovered "SE_DP_HB_RECOVERED" "SE_MGR" "EVENT_CONTEXT_SYSTEM" "EVENT_PAGE_SE", "An engine answers the hellos of those again that it was silent to.";
}

impl Id {
    /// The event of this code.
    pub fn of(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|id| id.code() == code)
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::of(&code).ok_or_else(|| serde::de::Error::custom("no event of this version"))
    }
}

/// The object that an event is of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Path of its type; empty: the controller itself.
    pub path: String,
    /// Its uuid.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// uuid of the tenant that it belongs to.
    pub tenant: String,
}

impl Subject {
    /// The object as it is now; none when it is gone.
    pub fn of(snapshot: &Snapshot, path: &str, uuid: &str) -> Option<Self> {
        let stored = snapshot.get(path, uuid)?;
        Some(Self {
            path: path.to_owned(),
            uuid: uuid.to_owned(),
            name: stored.name().to_owned(),
            tenant: tenant_of(stored).to_owned(),
        })
    }

    /// The controller.
    pub fn controller() -> Self {
        Self {
            tenant: ADMIN_TENANT.to_owned(),
            ..Self::default()
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event; given by the ring.
    pub sequence: u64,
    /// Microseconds since 1970; given by the ring.
    pub time_us: u64,
    /// What happened.
    pub id: Id,
    /// To which object.
    pub subject: Subject,
    /// To which part of it: a peer, a server, an address. Empty: to all of it.
    pub part: String,
    /// Somebody from outside asked for it.
    pub external: bool,
    /// snake_case, of `model::reason` and `model::condition`; empty when there is none.
    pub reason_code: String,
    /// A sentence.
    pub summary: String,
    /// uuids of objects that it concerns, too.
    pub related: Vec<String>,
    /// `event_details`, as the text of a JSON object: a third of the memory.
    pub details: String,
    /// How many of these happened since the one before; more than one where they were held back.
    pub repeated: u32,
}

impl Event {
    /// With this sentence; cut where it is too long.
    pub fn new(id: Id, subject: Subject, summary: impl Into<String>) -> Self {
        Self {
            sequence: 0,
            time_us: 0,
            id,
            subject,
            part: String::new(),
            external: false,
            reason_code: String::new(),
            summary: cut(summary.into()),
            related: Vec::new(),
            details: "{}".to_owned(),
            repeated: 1,
        }
    }

    /// Of this part of the object.
    #[must_use]
    pub fn of_part(self, part: impl Into<String>) -> Self {
        Self {
            part: cut(part.into()),
            ..self
        }
    }

    /// For this reason.
    #[must_use]
    pub fn because(self, code: impl Into<String>) -> Self {
        Self {
            reason_code: cut(code.into()),
            ..self
        }
    }

    /// Somebody from outside asked for it, or not.
    #[must_use]
    pub fn asked_from_outside(self, external: bool) -> Self {
        Self { external, ..self }
    }

    /// It concerns these, too; the first of them are kept.
    #[must_use]
    pub fn with_related(self, related: impl IntoIterator<Item = String>) -> Self {
        let mut related: Vec<String> = related.into_iter().take(RELATED_MAX).collect();
        related.dedup();
        Self { related, ..self }
    }

    /// With these details, under their key in `event_details`.
    #[must_use]
    pub fn with_details(self, key: &str, details: Value) -> Self {
        Self {
            details: json!({ key: details }).to_string(),
            ..self
        }
    }

    /// `event_details`.
    pub fn details(&self) -> Value {
        serde_json::from_str(&self.details).unwrap_or_else(|_| json!({}))
    }

    /// It is of this object, or concerns it.
    pub fn concerns(&self, uuid: &str) -> bool {
        self.subject.uuid == uuid || self.related.iter().any(|r| r == uuid)
    }

    /// As the API shows it. `sequence`, `time` and `repeated` are ours.
    pub fn show(&self) -> Value {
        let internal = match self.external {
            true => "EVENT_EXTERNAL",
            false => "EVENT_INTERNAL",
        };
        json!({
            "report_timestamp": self.time_us / 1_000_000,
            "time": rfc3339(self.time_us),
            "sequence": self.sequence,
            "event_id": self.id.code(),
            "module": self.id.module(),
            "context": self.id.context(),
            "event_pages": [self.id.page()],
            "internal": internal,
            "obj_type": self.subject.path.to_uppercase(),
            "obj_uuid": self.subject.uuid,
            "obj_name": self.subject.name,
            "tenant": self.subject.tenant,
            "reason_code": self.reason_code,
            "event_description": self.id.about(),
            "details_summary": self.summary,
            "related_uuids": self.related,
            "event_details": self.details(),
            "repeated": self.repeated,
        })
    }
}

/// At most [`TEXT_LEN_MAX`] bytes of it, whole characters.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_LEN_MAX {
        let fits = |at: &usize| text.is_char_boundary(*at);
        let end = (0..=TEXT_LEN_MAX).rev().find(fits).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
