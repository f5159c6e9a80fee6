//! What the controller tells of itself at `/metrics`, beside what engines report.

use super::App;
use crate::series;
use axum::http::{Method, StatusCode};
use model::metric::{self, Metric};
use model::schema::object_types;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric as Collected, Registry};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

type Labels = Vec<(&'static str, &'static str)>;

/// Calls since the start of this process.
pub struct ApiMetrics {
    calls: Family<Labels, Counter>,
    seconds: Family<Labels, Counter<f64, AtomicU64>>,
    started: Instant,
}

impl Default for ApiMetrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            seconds: Family::default(),
            started: Instant::now(),
        }
    }
}

impl ApiMetrics {
    /// A call was answered.
    pub(super) fn count(&self, method: &Method, status: StatusCode, took: Duration) {
        let labels = vec![("method", word(method)), ("status", class(status))];
        self.calls.get_or_create(&labels).inc();
        let seconds = self.seconds.get_or_create(&labels);
        seconds.inc_by(took.as_secs_f64());
    }
}

/// Methods are a client's words: those that there are, and one for the others.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        0..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

/// Registers what the controller tells of itself.
pub(super) fn register(app: &App, all: &mut Registry) {
    let ApiMetrics {
        calls,
        seconds,
        started,
    } = &app.metrics;
    add(all, metric::CONTROLLER_CALLS, calls.clone());
    add(all, metric::CONTROLLER_CALL_SECONDS, seconds.clone());
    let snapshot = app.objects.snapshot();
    let objects = Family::<Labels, Gauge>::default();
    for ty in object_types() {
        let count = i64::try_from(snapshot.count(&ty.path)).unwrap_or(i64::MAX);
        if count > 0 {
            let labels = vec![("type", ty.path.as_str())];
            objects.get_or_create(&labels).set(count);
        }
    }
    add(all, metric::CONTROLLER_OBJECTS, objects);
    add(
        all,
        metric::CONTROLLER_SESSIONS,
        gauge(app.auth.open_sessions() as u64),
    );
    add(all, metric::CONTROLLER_REVISION, gauge(snapshot.revision));
    add(
        all,
        metric::CONTROLLER_UPTIME,
        gauge(started.elapsed().as_secs()),
    );
    if let Some(bytes) = series::resident_bytes() {
        add(all, metric::CONTROLLER_RESIDENT_MEMORY, gauge(bytes));
    }
}

fn add(all: &mut Registry, metric: Metric, collected: impl Collected) {
    all.register(metric.name, metric.help, collected);
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_of_calls_are_bounded() {
        let metrics = ApiMetrics::default();
        for method in ["GET", "BREW", "PROPFIND", "GET"] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            for status in [200, 204, 404, 500] {
                let status = StatusCode::from_u16(status).expect("a status");
                metrics.count(&method, status, Duration::from_millis(500));
            }
        }
        let of = |method, status| vec![("method", method), ("status", status)];
        let calls = |labels: Labels| metrics.calls.get_or_create(&labels).get();
        assert_eq!(calls(of("GET", "2xx")), 4);
        assert_eq!(calls(of("other", "2xx")), 4);
        assert_eq!(calls(of("other", "4xx")), 2);
        let seconds = metrics.seconds.get_or_create(&of("GET", "5xx")).get();
        assert!((seconds - 1.0).abs() < 1e-9, "{seconds}");
    }
}
