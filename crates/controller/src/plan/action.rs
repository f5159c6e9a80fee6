//! What is done with a VIP's placement.

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// An engine that it lacks.
    InitialPlacement,
    /// An engine more, that somebody asks for.
    ScaleOut,
    /// That engine does not serve in time, and is taken out again.
    ScaleOutRolledBack,
    /// An engine fewer.
    ScaleIn,
    /// An engine in the place of one that is lost.
    SeRemoved,
    /// An engine that is to take the place of another one.
    MigrateScaleout,
    /// It does not serve in time, and is taken out again.
    MigrateRolledBack,
    /// The other one goes.
    MigrateScalein,
    /// The standby becomes active.
    Switchover,
    /// The new active one does not serve in time, and is the standby again.
    SwitchoverRolledBack,
}

impl Action {
    /// In the words of `ScaleStatus` (avi-api 10.2); a switchover has none there.
    pub fn word(self) -> &'static str {
        match self {
            Self::InitialPlacement => "INITIAL_PLACEMENT",
            Self::ScaleOut | Self::ScaleOutRolledBack => "SCALE_OUT",
            Self::ScaleIn => "SCALE_IN",
            Self::SeRemoved => "SE_REMOVED",
            Self::MigrateScaleout | Self::MigrateRolledBack => "MIGRATE_SCALEOUT",
            Self::MigrateScalein => "MIGRATE_SCALEIN",
            Self::Switchover | Self::SwitchoverRolledBack => "SWITCHOVER",
        }
    }

    /// State of `ScaleStatus` once it is over; `leaving`: an engine that goes has connections left.
    pub(super) fn state(self, success: bool, leaving: bool) -> &'static str {
        match (self, success) {
            (Self::ScaleIn, true) if leaving => "SCALEIN_AWAITING_SE_RELEASE",
            (Self::ScaleIn, true) => "SCALEIN_SUCCESS",
            (Self::ScaleIn, false) => "SCALEIN_ERROR",
            (Self::MigrateScalein, true) if leaving => "MIGRATE_SCALEIN_AWAITING_SE_RELEASE",
            (Self::MigrateScalein, true) => "MIGRATE_SCALEIN_SUCCESS",
            (Self::MigrateScalein, false) => "MIGRATE_SCALEIN_ERROR",
            (Self::MigrateScaleout, true) => "MIGRATE_SCALEOUT_SUCCESS",
            (Self::MigrateScaleout | Self::MigrateRolledBack, _) => "MIGRATE_SCALEOUT_ERROR",
            (Self::ScaleOutRolledBack | Self::SwitchoverRolledBack, _)
            | (Self::Switchover, false) => "SCALEOUT_ERROR",
            (Self::InitialPlacement | Self::ScaleOut | Self::SeRemoved, false) => {
                "SCALEOUT_RESOURCES"
            }
            (
                Self::InitialPlacement | Self::ScaleOut | Self::SeRemoved | Self::Switchover,
                true,
            ) => "SCALEOUT_SUCCESS",
        }
    }
}
