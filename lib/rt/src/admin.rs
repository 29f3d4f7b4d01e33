//! The admin socket: health, metrics, log filter. Its mode lets a group read; only root and the daemon's own user
//! change the filter.

use crate::clock;
use crate::logs::Filter;
use crate::ready::Readiness;
use gantry_proto::admin::{Health, HealthReply, LogLevel, Metrics, PROTOCOL};
use gantry_rpc::{Call, Code, Fail, Handled, Hello, Peer, Service, route};
use prometheus_client::registry::Registry;
use std::sync::{Arc, Mutex, PoisonError};

/// Mode of the socket (DESIGN §1).
pub(crate) const MODE: u32 = 0o660;

/// Answers the admin verbs.
pub(crate) struct Admin {
    pub name: &'static str,
    pub ready: Readiness,
    pub metrics: Arc<Mutex<Registry>>,
    pub filter: Filter,
}

impl Admin {
    fn health(&self) -> HealthReply {
        let (ready, why) = self.ready.get();
        HealthReply {
            name: self.name.to_owned(),
            ready,
            why,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: clock::millis(),
        }
    }

    fn metrics(&self) -> Result<String, Fail> {
        let mut text = String::new();
        let registry = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .map_err(|error| Fail::new(Code::Internal, error.to_string()))?;
        Ok(text)
    }

    fn log_level(&self, filter: &str, peer: &Peer) -> Result<(), Fail> {
        if !peer.is_own() {
            return Err(Fail::new(Code::Denied, "only root may change the log filter"));
        }
        self.filter.set(filter).map_err(|why| Fail::new(Code::BadRequest, why))?;
        tracing::info!(filter, "log filter changed");
        Ok(())
    }
}

impl Service for Admin {
    fn hello(&self) -> Hello {
        Hello::new(PROTOCOL, &format!("gantry-{}", self.name))
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            route!(call, {
                Health => |(), _call| Ok(self.health()),
                Metrics => |(), _call| self.metrics(),
                LogLevel => |filter, call| self.log_level(&filter, &call.peer),
            })
        })
    }
}
