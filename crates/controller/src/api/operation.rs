//! What the API can do, as a table: [`Operation::new`] is the only way to make an operation, and it demands who may
//! call it and how it is audited. The table in words is checked in beside this file (`operations.txt`), so that a
//! change of what anybody may do is seen in review.

use super::{App, Context};
use crate::access::{self, Level};
use crate::error::ApiError;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use model::schema::object_type;

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Anybody, without a session.
    Public,
    /// Any user who has logged in.
    LoggedIn,
    /// Who may see objects of this type and what is observed of them.
    Read,
    /// Who may see the controller in all tenants: what is observed of everybody's services at once.
    Observe,
    /// Who may see virtual services, or the controller in all tenants: what is observed of the former, which the handler
    /// sees to, or of everybody's.
    Services,
    /// Who may change objects of this type.
    Write,
    /// Who may move running traffic: scale out, scale in, migrate.
    Operate,
    /// Who may let engines in and change the system's own settings.
    Administer,
    /// Superusers: what touches every object at once, whoever it belongs to.
    Everything,
}

impl Permission {
    /// The right that it takes; none: to be logged in is enough.
    fn level(self) -> Option<Level> {
        match self {
            Self::Public | Self::LoggedIn => None,
            Self::Read | Self::Observe | Self::Services => Some(Level::Read),
            Self::Write | Self::Operate | Self::Administer | Self::Everything => Some(Level::Write),
        }
    }
}

/// What the log keeps of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audit {
    /// Nothing: it changes nothing.
    None,
    /// A line for each call: it changes configuration.
    Change,
    /// A line for each call: it acts on what runs.
    Action,
    /// The login says for itself who came and who was refused.
    Session,
    /// Nothing: its body is a question, or another controller's hello.
    Question,
}

/// One call, taken apart.
pub(super) struct Call<'a> {
    /// What handlers need of the controller.
    pub app: &'a App,
    /// Who asks, and how the answer shall look.
    pub context: &'a Context,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The body as it came.
    pub body: Vec<u8>,
    /// `{type}` of the path, else "".
    pub type_path: &'a str,
    /// `{uuid}` of the path, else "".
    pub uuid: &'a str,
    /// The last segment of the path.
    pub last: &'a str,
}

type Answer<'a> = BoxFuture<'a, Result<Response, ApiError>>;
type Handler = for<'a> fn(&'a Call<'a>) -> Answer<'a>;

/// See the module's documentation.
pub(super) struct Operation {
    method: Method,
    /// `/api/{type}/{uuid}`: parts in braces match any segment.
    path: String,
    /// Who may.
    pub permission: Permission,
    /// What the log keeps.
    pub audit: Audit,
    /// It can say what it would do (`dry_run`).
    pub plans: bool,
    /// It refuses parameters of the query that it does not have (`unknown_parameters`).
    pub is_exact: bool,
    handler: Handler,
}

impl Operation {
    pub(super) fn new(
        method: Method,
        path: impl Into<String>,
        permission: Permission,
        audit: Audit,
        handler: Handler,
    ) -> Self {
        Self {
            method,
            path: path.into(),
            permission,
            audit,
            plans: false,
            is_exact: false,
            handler,
        }
    }

    /// With `dry_run`: the handler either writes with `Objects::change` alone, which stores nothing then and goes no
    /// further, or looks at it itself.
    pub(super) fn with_plan(mut self) -> Self {
        self.plans = true;
        self
    }

    /// Without a parameter that is misspelt it would be about more than was asked for, or do it at once: such a one is refused.
    pub(super) fn with_known_parameters(mut self) -> Self {
        self.is_exact = true;
        self
    }

    /// A dry run of what cannot say what it would do must not do it.
    ///
    /// # Errors
    /// 400.
    pub(super) fn check_dry_run(&self, context: &Context) -> Result<(), ApiError> {
        let reads = matches!(self.audit, Audit::None | Audit::Question);
        if !context.author.dry_run || self.plans || reads {
            return Ok(());
        }
        let name = self.name();
        let text = format!("dry_run: {name} has no plan to show; nothing was done");
        Err(ApiError::bad_request(text))
    }

    /// The caller may do this, to this object (avi-api section 12, `access` of a user).
    ///
    /// # Errors
    /// 403; 404 for an object that he does not see.
    pub(super) fn check(
        &self,
        app: &App,
        context: &Context,
        found: &Match<'_>,
    ) -> Result<(), ApiError> {
        let Some(level) = self.permission.level() else {
            return Ok(());
        };
        let path = match self.permission {
            Permission::Services => "virtualservice",
            _ => self.type_of(found),
        };
        let resource = access::resource(path);
        let allowed = match self.permission {
            Permission::Everything => context.access.superuser,
            Permission::Services => {
                may(app, context, level, (path, ""))? || may(app, context, level, ("", ""))?
            }
            _ => may(app, context, level, (path, &found.uuid))?,
        };
        let refused = || {
            let (user, name) = (&context.access.user, self.name());
            let text = format!("{user} may not {name}: {resource} is missing in his roles");
            ApiError::new(StatusCode::FORBIDDEN, text)
        };
        allowed.then_some(()).ok_or_else(refused)
    }

    /// The type that the path is about; "" for what is about none.
    fn type_of<'m>(&'m self, found: &'m Match<'_>) -> &'m str {
        if !found.type_path.is_empty() {
            return &found.type_path;
        }
        let mut parts = self.path.split('/').skip(1);
        match (parts.next(), parts.next()) {
            (Some("api"), Some(word))
                if ![Permission::Administer, Permission::Observe].contains(&self.permission) =>
            {
                object_type(word).map_or("", |ty| ty.path.as_str())
            }
            _ => "",
        }
    }

    /// Does it.
    pub(super) async fn run(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        (self.handler)(call).await
    }

    /// `PUT`, in its own words.
    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// `/api/{type}/{uuid}`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// `PUT /api/{type}/{uuid}`.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// One line of the checked-in list.
    #[cfg(test)]
    pub(super) fn line(&self) -> String {
        let (permission, audit) = (
            format!("{:?}", self.permission),
            format!("{:?}", self.audit),
        );
        format!(
            "{permission:<11} {audit:<8} {:<7} {}",
            self.method, self.path
        )
    }
}

/// An operation with what its path's parts in braces stand for.
pub(super) struct Match<'a> {
    /// The operation.
    pub operation: &'a Operation,
    /// `{type}`, else "".
    pub type_path: String,
    /// `{uuid}`, else "".
    pub uuid: String,
}

/// The operation for a method and a path without empty segments.
///
/// # Errors
/// The answer 404 or 405 (avi-api section 7).
pub(super) fn find<'a>(
    table: &'a [Operation],
    method: &Method,
    segments: &[String],
) -> Result<Match<'a>, Box<Response>> {
    let of_path = |o: &'a Operation| Some((o, matches(&o.path, segments)?));
    let Some((first, (type_path, uuid))) = table.iter().find_map(of_path) else {
        let text = format!("there is no /{}", segments.join("/"));
        return Err(Box::new(
            ApiError::new(StatusCode::NOT_FOUND, text).into_response(),
        ));
    };
    // The answer to HEAD is that to GET without its body, which the server leaves out.
    let wanted = if *method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let same_path = || table.iter().filter(|o| o.path == first.path);
    let found = same_path().find(|o| o.method == *wanted);
    found
        .map(|operation| Match {
            operation,
            type_path,
            uuid,
        })
        .ok_or_else(|| Box::new(not_allowed(method, same_path().map(|o| &o.method))))
}

/// True when the caller has this right on a type, or on the object with this uuid if it is not empty.
///
/// # Errors
/// 404 for an object that he does not see.
pub(super) fn may(
    app: &App,
    context: &Context,
    level: Level,
    (path, uuid): (&str, &str),
) -> Result<bool, ApiError> {
    let (caller, resource) = (&context.access, access::resource(path));
    Ok(match path {
        // Each sees the tenants that he may enter.
        "tenant" if level == Level::Read && uuid.is_empty() => true,
        "tenant" if level == Level::Read && caller.enters(uuid) => true,
        "" | "user" | "role" | "tenant" => caller.may_everywhere(level, &resource),
        _ if uuid.is_empty() => context.may(level, &resource),
        _ => may_object(app, context, level, (path, uuid))?,
    })
}

/// True when the caller has this right on an object: in its tenant, or, to read what is shared, where he is. What is not there
/// is the handler's to say.
///
/// # Errors
/// 404 for an object that he does not see.
fn may_object(
    app: &App,
    context: &Context,
    level: Level,
    (path, uuid): (&str, &str),
) -> Result<bool, ApiError> {
    let (snapshot, resource) = (app.objects.snapshot(), access::resource(path));
    let Some(stored) = snapshot.get(path, uuid) else {
        return Ok(context.may(level, &resource));
    };
    if !context.reaches(path, uuid, stored) {
        return Err(not_seen(path, stored.name()));
    }
    let shared = level == Level::Read && context.is_seen_here(path, stored);
    let owner = access::tenant_of(stored);
    Ok(context.access.may(level, &resource, owner) || shared && context.may(level, &resource))
}

/// As if it were not there.
fn not_seen(path: &str, name: &str) -> ApiError {
    tracing::debug!(path, name, "not seen from this tenant");
    ApiError::not_found(object_type(path).map_or(path, |ty| ty.name.as_str()))
}

fn not_allowed<'a>(method: &Method, allowed: impl Iterator<Item = &'a Method>) -> Response {
    let text = format!("Method '{method}' not allowed");
    let mut response = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text).into_response();
    let allowed: Vec<_> = allowed.map(Method::as_str).collect();
    if let Ok(value) = HeaderValue::from_str(&allowed.join(", ")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// What `{type}` and `{uuid}` stand for, if the pattern matches.
fn matches(pattern: &str, segments: &[String]) -> Option<(String, String)> {
    let (mut type_path, mut uuid) = (String::new(), String::new());
    let mut rest = segments.iter();
    for part in pattern.split('/').skip(1) {
        let segment = rest.next()?;
        match part {
            "{type}" => type_path.clone_from(segment),
            "{type}-inventory" => segment
                .strip_suffix("-inventory")?
                .clone_into(&mut type_path),
            "{uuid}" => uuid.clone_from(segment),
            "{address}" => {} // the handler takes the last segment
            literal if literal == segment => {}
            _ => return None,
        }
    }
    rest.next().is_none().then_some((type_path, uuid))
}

#[cfg(test)]
mod tests;
