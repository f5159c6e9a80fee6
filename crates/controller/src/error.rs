//! The one error of the API: a status and a sentence (avi-api section 7).

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::object::FieldError;
use serde_json::json;
use store::StoreError;

/// The words that clients match when the token or the Referer is missing (avi-api 2.2).
pub const CSRF_REFUSED: &str = "CSRF token missing or incorrect.";

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What happened, to which object, why, and what to do.
    pub text: String,
}

impl ApiError {
    /// An error with this status.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    /// 400.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// 404 with the words that clients match: `VsVip object not found!`.
    pub fn not_found(type_name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("{type_name} object not found!"),
        )
    }

    /// 400 with every field that is wrong.
    pub fn fields(errors: &[FieldError]) -> Self {
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        Self::bad_request(lines.join("\n"))
    }

    /// 500 for what only a person can mend; the cause is in the log.
    pub fn internal(what: &str, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, what, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{what} failed; the controller's log has the cause"),
        )
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict { key, .. } => Self::new(
                StatusCode::CONFLICT,
                format!("{key} was changed at the same time; read it again and repeat"),
            ),
            StoreError::Full { .. } => {
                tracing::error!(%error, "a write was refused");
                Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "the controller's disk is full: nothing was written; make room in its data folder and repeat",
                )
            }
            StoreError::NoSpace { .. } => {
                tracing::error!(%error, "a write was refused");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
            }
            StoreError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            StoreError::NotLeader { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            StoreError::Unreachable { .. } | StoreError::OutcomeUnknown { .. } => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "the store does not answer");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            StoreError::Compacted { .. } => Self::new(StatusCode::GONE, error.to_string()),
            StoreError::NewerSchema { .. }
            | StoreError::NoBackup { .. }
            | StoreError::NotEmpty { .. }
            | StoreError::Unreadable { .. }
            | StoreError::Database { .. }
            | StoreError::Refused { .. }
            | StoreError::File { .. }
            | StoreError::Closed => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                Self::internal(&error.to_string(), &cause.unwrap_or_default())
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // avi-api 7: the CSRF failure is plain text under a JSON content type.
        if self.text == CSRF_REFUSED {
            let json = [(header::CONTENT_TYPE, "application/json")];
            return (self.status, json, self.text).into_response();
        }
        (self.status, Json(json!({ "error": self.text }))).into_response()
    }
}
