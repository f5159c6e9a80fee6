//! Actions that refuse parameters of the query that they do not have. One that is misspelt would be a choice of all, or no dry run.

use super::context::Context;
use super::openapi;
use super::operation::Operation;
use crate::error::ApiError;

/// That an operation which is exact has each parameter that it is asked with.
///
/// # Errors
/// 400 with the first that it does not have, and those that it has.
pub(super) fn check(operation: &Operation, context: &Context) -> Result<(), ApiError> {
    if !operation.is_exact {
        return Ok(());
    }
    let known = openapi::parameters_of(operation);
    let is_known = |name: &str| known.contains(&name) || openapi::is_of_objects(name);
    let mut names = context.query.iter().map(|(name, _)| name.as_str());
    let Some(other) = names.find(|name| !is_known(name)) else {
        return Ok(());
    };
    Err(ApiError::bad_request(format!(
        "{other}: {} has no such parameter, and nothing was done; it has {}",
        operation.name(),
        known.join(", ")
    )))
}
