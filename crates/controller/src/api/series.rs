//! `/api/analytics/metrics` and `/api/analytics/healthscore`: time series, and the health score (avi-api section 11).

use super::events::range;
use super::operation::Call;
use super::{ok, parse, query};
use crate::access::{Level, resource};
use crate::clock::{now_us, rfc3339};
use crate::error::ApiError;
use crate::events::Subject;
use crate::series::metric::{HEALTH_SCORE, Metric, Statistics};
use crate::series::{CONTROLLER, Kind, REAL_TIME_S, Rows, STEPS_S};
use axum::http::StatusCode;
use axum::response::Response;
use model::object::Object;
use serde_json::{Value, json};

/// Step when none is asked for.
const STEP_S: u64 = 300;
/// Samples at most, when none is asked for: an hour in real time, more than all that is kept else.
const LIMIT: usize = 720;
/// Questions of one collection.
const REQUESTS_MAX: usize = 100;
/// The longest step is made of the hours of a day.
const DAY_S: u64 = 86_400;

/// What is asked for of one entity.
struct Question {
    /// As they were written, known or not.
    ids: Vec<String>,
    step_s: u64,
    limit: usize,
    start_s: Option<u64>,
    stop_s: u64,
    pad: bool,
}

/// An entity that the caller sees.
struct Entity {
    kind: Kind,
    uuid: String,
    tenant: String,
}

/// `GET /api/analytics/metrics/TYPE/UUID`, and that of the controller.
pub(super) fn one(call: &Call<'_>, kind: Kind) -> Result<Response, ApiError> {
    let entity = entity(call, kind, call.uuid)?;
    Ok(ok(Question::of(call)?.answer(call, &entity)))
}

/// `GET /api/analytics/metrics/TYPE`: of all that the caller sees.
pub(super) fn list(call: &Call<'_>, kind: Kind) -> Result<Response, ApiError> {
    let question = Question::of(call)?;
    let snapshot = call.app.objects.snapshot();
    let (view, access) = (call.context.view(), &call.context.access);
    let all = snapshot
        .all(kind.path())
        .filter_map(|(uuid, _)| Subject::of(&snapshot, kind.path(), uuid));
    let seen = all.filter(|subject| view.shows(&snapshot, access, subject));
    let seen = seen.map(|subject| Entity {
        kind,
        uuid: subject.uuid,
        tenant: subject.tenant,
    });
    let path = format!("analytics/metrics/{}", kind.path());
    let show = |entity: Entity| question.answer(call, &entity);
    Ok(ok(query::page(call.context, &path, seen.collect(), show)))
}

/// `POST /api/analytics/metrics/collection`: several questions at once.
pub(super) fn collection(call: &Call<'_>) -> Result<Response, ApiError> {
    let body = parse(&call.body)?;
    let requests = body.get("metric_requests").and_then(Value::as_array);
    let missing = || ApiError::bad_request("metric_requests: must be a list of questions");
    let requests = requests.ok_or_else(missing)?;
    if requests.len() > REQUESTS_MAX {
        let text = format!("metric_requests: more than {REQUESTS_MAX}; ask for less at once");
        return Err(ApiError::bad_request(text));
    }
    let mut all = Object::new();
    for (i, request) in requests.iter().enumerate() {
        let field = |text: String| ApiError::bad_request(format!("metric_requests[{i}].{text}"));
        let question = Question::of_request(request).map_err(field)?;
        let id = request["id"]
            .as_str()
            .map_or_else(|| i.to_string(), str::to_owned);
        let series = match entity_of(call, request) {
            Some(entity) => question.series(call, &entity),
            None => question.nothing(),
        };
        all.insert(id, series.into());
    }
    Ok(ok(json!({ "series": all })))
}

/// `GET /api/analytics/healthscore/virtualservice/UUID`: the score, and how it has been.
pub(super) fn health_score(call: &Call<'_>, detail: bool) -> Result<Response, ApiError> {
    let entity = entity(call, Kind::VirtualService, call.uuid)?;
    let mut question = Question::of(call)?;
    question.ids = vec![HEALTH_SCORE.to_owned()];
    let mut answer = question.answer(call, &entity);
    let gone = || ApiError::not_found("VirtualService");
    let score = call.app.watchman.score(&entity.uuid).ok_or_else(gone)?;
    answer["health_score"] = json!(score.value());
    if detail {
        answer["detail"] = score.detail();
    }
    Ok(ok(answer))
}

/// # Errors
/// 404 for what the caller does not see; 403 for the controller, where he may not read it.
fn entity(call: &Call<'_>, kind: Kind, uuid: &str) -> Result<Entity, ApiError> {
    if kind == Kind::Controller {
        return controller(call);
    }
    seen(call, kind, uuid).ok_or_else(|| {
        let ty = model::schema::object_type(kind.path());
        ApiError::not_found(ty.map_or(kind.path(), |ty| ty.name.as_str()))
    })
}

fn seen(call: &Call<'_>, kind: Kind, uuid: &str) -> Option<Entity> {
    let snapshot = call.app.objects.snapshot();
    let subject = Subject::of(&snapshot, kind.path(), uuid)?;
    let (view, access) = (call.context.view(), &call.context.access);
    // From tenant admin, who may read an object reaches it by its uuid.
    let reaches = || {
        view.tenant == crate::access::ADMIN_TENANT
            && access.may(Level::Read, &resource(kind.path()), &subject.tenant)
    };
    (view.shows(&snapshot, access, &subject) || reaches()).then(|| Entity {
        kind,
        uuid: subject.uuid.clone(),
        tenant: subject.tenant.clone(),
    })
}

fn controller(call: &Call<'_>) -> Result<Entity, ApiError> {
    let (access, resource) = (&call.context.access, resource(""));
    if !access.may_everywhere(Level::Read, &resource) {
        let text = format!(
            "{} may not read what is of the controller: {resource} is missing in his roles",
            access.user
        );
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    }
    Ok(Entity {
        kind: Kind::Controller,
        uuid: CONTROLLER.to_owned(),
        tenant: crate::access::ADMIN_TENANT.to_owned(),
    })
}

/// The entity of a request of a collection, by the type that its uuid says; `*` and what is not seen are none.
fn entity_of(call: &Call<'_>, request: &Value) -> Option<Entity> {
    let text = |name: &str| {
        request[name]
            .as_str()
            .filter(|t| !t.is_empty() && *t != "*")
    };
    let uuid = text("entity_uuid")
        .or(text("serviceengine_uuid"))
        .or(text("pool_uuid"));
    let Some(uuid) = uuid else {
        return controller(call)
            .ok()
            .filter(|_| request["entity_uuid"].is_null());
    };
    let kinds = [Kind::VirtualService, Kind::Pool, Kind::ServiceEngine];
    kinds.into_iter().find_map(|kind| seen(call, kind, uuid))
}

impl Question {
    fn of(call: &Call<'_>) -> Result<Self, ApiError> {
        let context = call.context;
        let (start_us, stop_us) = range(context)?;
        let number = |name: &str, default: u64| match context.get(name).filter(|t| !t.is_empty()) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                ApiError::bad_request(format!("{name}: {text:?} is no number; write one"))
            }),
        };
        Ok(Self {
            ids: ids(context.get("metric_id").unwrap_or_default()),
            step_s: step(number("step", STEP_S)?).map_err(ApiError::bad_request)?,
            limit: limit(number("limit", 0)?),
            start_s: start_us.map(|us| us / 1_000_000),
            stop_s: stop_us / 1_000_000,
            pad: context.asks("pad_missing_data"),
        })
    }

    /// From the fields of a request of a collection; the error begins with the field's name.
    fn of_request(request: &Value) -> Result<Self, String> {
        let number = |name: &str, default: u64| match &request[name] {
            Value::Null => Ok(default),
            value => value
                .as_u64()
                .ok_or_else(|| format!("{name}: {value} is no number; write one")),
        };
        let time = |name: &str| match request[name].as_str().filter(|t| !t.is_empty()) {
            None => Ok(None),
            Some(text) => super::events::moment(name, text)
                .map(|us| Some(us / 1_000_000))
                .map_err(|e| e.text),
        };
        Ok(Self {
            ids: ids(request["metric_id"].as_str().unwrap_or_default()),
            step_s: step(number("step", STEP_S)?)?,
            limit: limit(number("limit", 0)?),
            start_s: time("start")?,
            stop_s: time("stop")?.unwrap_or_else(|| now_us() / 1_000_000),
            pad: request["pad_missing_data"] == true,
        })
    }

    fn answer(&self, call: &Call<'_>, entity: &Entity) -> Value {
        let start_s = self.start_s.unwrap_or_else(|| self.earliest());
        json!({
            "entity_uuid": entity.uuid,
            "metric_entity": entity.kind.path().to_uppercase(),
            "metric_id": self.ids.join(","),
            "limit": self.limit,
            "step": self.step_s,
            "start": rfc3339(start_s * 1_000_000),
            "stop": rfc3339(self.stop_s * 1_000_000),
            "series": self.series(call, entity),
        })
    }

    /// Of an entity that is none for the caller.
    fn nothing(&self) -> Vec<Value> {
        self.ids
            .iter()
            .map(|_| json!({"header": {}, "data": []}))
            .collect()
    }

    fn earliest(&self) -> u64 {
        let span_s = self.step_s.saturating_mul(self.limit as u64);
        self.stop_s.saturating_sub(span_s)
    }

    /// One for each id; one that is not known is empty.
    fn series(&self, call: &Call<'_>, entity: &Entity) -> Vec<Value> {
        let rows = self.rows(call, entity);
        let find = |id: &String| entity.kind.metrics().find(|m| m.id == *id);
        let each = self.ids.iter().map(|id| match find(id) {
            Some(metric) => self.one_series(entity, metric, &rows),
            None => json!({"header": {"name": id, "entity_uuid": entity.uuid}, "data": []}),
        });
        each.collect()
    }

    fn rows(&self, call: &Call<'_>, entity: &Entity) -> Rows {
        let kept_s = if self.step_s == DAY_S {
            STEPS_S[1]
        } else {
            self.step_s
        };
        let range_s = (self.start_s.unwrap_or_else(|| self.earliest()), self.stop_s);
        let now_s = now_us() / 1_000_000;
        let series = &call.app.series;
        let mut rows = series.read(entity.kind, &entity.uuid, kept_s, range_s, now_s);
        if self.step_s == DAY_S {
            rows = days(&rows, entity.kind);
        }
        let surplus = rows.len().saturating_sub(self.limit);
        rows.drain(..surplus);
        rows
    }

    fn one_series(&self, entity: &Entity, metric: &Metric, rows: &Rows) -> Value {
        let value = |row: &Option<Vec<f32>>| metric.value(row.as_ref()?);
        let all = rows.iter().map(|(at, row)| (*at, value(row)));
        let known: Vec<(u64, f32)> = all.clone().filter_map(|(at, v)| Some((at, v?))).collect();
        let data = all.filter(|(_, v)| self.pad || v.is_some()).map(|(at, v)| {
            json!({"timestamp": rfc3339(at * 1_000_000), "value": v.unwrap_or_default(), "is_null": v.is_none()})
        });
        json!({
            "header": {
                "name": metric.id, "units": metric.units,
                "entity_uuid": entity.uuid, "tenant_uuid": entity.tenant,
                "metrics_min_scale": 0.0,
                "statistics": statistics(&known),
            },
            "data": data.collect::<Vec<_>>(),
        })
    }
}

/// The mean of the hours of each day; of what is a count, the sum.
fn days(hours: &Rows, kind: Kind) -> Rows {
    let mut days = Rows::new();
    for day in hours.chunk_by(|a, b| a.0 / DAY_S == b.0 / DAY_S) {
        let known: Vec<&Vec<f32>> = day.iter().filter_map(|(_, row)| row.as_ref()).collect();
        let row = known.first().map(|first| {
            let column = |i: usize| of_day(&known, i, kind.is_count(i));
            (0..first.len()).map(column).collect()
        });
        days.push((day[0].0 / DAY_S * DAY_S, row));
    }
    days
}

/// A figure of a day, from the hours in which it was told.
fn of_day(hours: &[&Vec<f32>], column: usize, is_count: bool) -> f32 {
    let told = hours.iter().map(|row| row[column]);
    let told: Vec<f32> = told.filter(|figure| !figure.is_nan()).collect();
    let sum: f32 = told.iter().sum();
    match told.len() {
        0 => f32::NAN,
        _ if is_count => sum,
        count => sum / count as f32,
    }
}

fn statistics(known: &[(u64, f32)]) -> Value {
    let Some(all) = Statistics::of(known) else {
        return json!({"num_samples": 0});
    };
    let time = |at: u64| rfc3339(at * 1_000_000);
    json!({
        "min": all.min.1, "max": all.max.1, "mean": all.mean(), "sum": all.sum, "num_samples": all.count,
        "min_ts": time(all.min.0), "max_ts": time(all.max.0), "last_sample": all.last, "trend": all.trend,
    })
}

fn ids(text: &str) -> Vec<String> {
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
    ids.map(str::to_owned).collect()
}

fn step(step_s: u64) -> Result<u64, String> {
    let known = [REAL_TIME_S, STEPS_S[0], STEPS_S[1], DAY_S];
    match known.contains(&step_s) {
        true => Ok(step_s),
        false => Err(format!(
            "step: {step_s} s is not kept; use 5, 300, 3600 or 86400"
        )),
    }
}

fn limit(asked: u64) -> usize {
    match usize::try_from(asked).unwrap_or(LIMIT) {
        0 => LIMIT,
        limit => limit.min(LIMIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_the_mean_of_its_hours() {
        let hour = |n: u64, value: Option<f32>| (n * 3600, value.map(|v| vec![v, 2.0 * v]));
        let hours = vec![
            hour(22, Some(1.0)),
            hour(23, Some(3.0)),
            hour(24, None),
            hour(25, Some(5.0)),
            hour(48, None),
        ];
        let expected = vec![
            (0, Some(vec![2.0, 4.0])),
            (DAY_S, Some(vec![5.0, 10.0])),
            (2 * DAY_S, None),
        ];
        assert_eq!(days(&hours, Kind::Pool), expected);
    }

    #[test]
    fn a_day_has_the_sum_of_what_is_counted_and_a_gap_where_nobody_told_it() {
        let row = |figure: f32| vec![figure; 13];
        let hours = vec![
            (0, Some(row(4.0))),
            (3600, Some(row(f32::NAN))),
            (7200, Some(row(8.0))),
            (DAY_S, Some(row(f32::NAN))),
        ];
        let days = days(&hours, Kind::VirtualService);
        for (id, expected) in [
            ("l7_client.sum_total_responses", 12.0),
            ("l7_client.avg_resp_2xx", 6.0),
        ] {
            let metric = Kind::VirtualService.metrics().find(|m| m.id == id);
            let value = |day: usize| metric?.value(days[day].1.as_ref()?);
            assert_eq!((value(0), value(1)), (Some(expected), None), "{id}");
        }
    }

    #[test]
    fn steps_that_are_not_kept_are_refused_and_a_limit_has_a_limit() {
        for good in [5, 300, 3600, 86_400] {
            assert_eq!(step(good), Ok(good));
        }
        assert!(step(60).unwrap_err().starts_with("step: 60 s"));
        assert_eq!((limit(0), limit(12), limit(u64::MAX)), (720, 12, 720));
        assert_eq!(ids("a, b,,c"), ["a", "b", "c"]);
    }
}
