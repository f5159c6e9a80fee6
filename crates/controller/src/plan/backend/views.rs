//! Of [`Backend`]: what is observed of pools, engines and virtual services beside their runtimes.

use super::super::EngineView;
use super::super::runtime::ServerFilter;
use super::super::scope;
use super::{Backend, parameter};
use crate::api::Context;
use crate::error::ApiError;
use serde_json::Value;

impl Backend {
    /// `GET /api/pool/UUID/runtime/server` (avi-api 10.3).
    ///
    /// # Errors
    /// 400 with the parameter.
    pub fn pool_servers(&self, uuid: &str, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let filter = ServerFilter::of(&|name| parameter(context, name))?;
        let tells = scope::tells(context, &snapshot);
        let observer = self.observer(&snapshot);
        Ok(observer.pool_servers(uuid, &filter, &tells))
    }

    /// `GET /api/pool/UUID/runtime/server/detail` (avi-api 10.3).
    ///
    /// # Errors
    /// 400 with the parameter.
    pub fn pool_server_counters(&self, uuid: &str, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let filter = ServerFilter::of(&|name| parameter(context, name))?;
        Ok(self.observer(&snapshot).pool_server_counters(uuid, &filter))
    }

    /// `GET /api/pool/UUID/runtime/detail` (avi-api 10.3).
    pub fn pool_detail(&self, uuid: &str) -> Value {
        let snapshot = self.objects.snapshot();
        self.observer(&snapshot).pool_detail(uuid)
    }

    /// `GET /api/serviceengine/UUID/…` (avi-api 10.4).
    pub fn se_view(&self, uuid: &str, view: EngineView, context: &Context) -> Value {
        let snapshot = self.objects.snapshot();
        let tells = scope::tells(context, &snapshot);
        self.observer(&snapshot).engine_view(uuid, view, &tells)
    }

    /// `GET /api/virtualservice/UUID/client` (avi-api 10.2).
    ///
    /// # Errors
    /// 400 with the parameter, 404.
    pub async fn vs_clients(&self, uuid: &str, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let lookup = |name: &str| parameter(context, name);
        self.observer(&snapshot).clients(uuid, &lookup).await
    }
}
