//! Keys and certificates (avi-api section 12, sslkeyandcertificate): what is imported is checked, what is asked for is
//! made, and what a certificate says is shown.

mod make;
mod read;
mod show;

pub use read::describe;
pub use show::{Unfit, to_show};

use model::object::{FieldError, Object};
use serde_json::Value;

/// `status` of a certificate that somebody still has to sign.
const PENDING: &str = "SSL_CERTIFICATE_PENDING";

/// Checks what is imported, and makes the key and the certificate or the request where none is; `stored` is what was
/// there before. What the schema refuses is left to it.
pub(super) fn complete(stored: &Object, object: &mut Object) -> Vec<FieldError> {
    let certificate = object.get("certificate").and_then(Value::as_object);
    let Some(certificate) = certificate.cloned() else {
        return Vec::new();
    };
    let done = match certificate.get("certificate") {
        Some(Value::String(_)) => {
            object.shift_remove("status");
            read::check_import(object, &certificate)
        }
        Some(_) => Ok(()),
        None if keep_made(stored, object) => Ok(()),
        None => make::make(stored, object, &certificate),
    };
    done.err().into_iter().collect()
}

/// A body that asks again for what was made gets the same: keys are not made anew with every PUT.
fn keep_made(stored: &Object, object: &mut Object) -> bool {
    let asked = make::Request::of(object);
    if asked.is_none() || asked != make::Request::of(stored) {
        return false;
    }
    let old = stored.get("certificate").and_then(Value::as_object);
    let made = ["certificate", "certificate_signing_request"]
        .into_iter()
        .filter_map(|name| Some((name, old?.get(name)?.clone())));
    let made: Vec<_> = made.collect();
    let certificate = object.get_mut("certificate").and_then(Value::as_object_mut);
    let Some(certificate) = certificate.filter(|_| !made.is_empty()) else {
        return false;
    };
    certificate.extend(made.into_iter().map(|(n, v)| (n.to_owned(), v)));
    match stored.get("status") {
        Some(status) => drop(object.insert("status".into(), status.clone())),
        None => drop(object.shift_remove("status")),
    }
    true
}

fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

fn flag(object: &Object, name: &str) -> bool {
    object.get(name) == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests;
