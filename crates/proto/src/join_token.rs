//! A join token as an operator carries it (docs/adr/0003): one line of text that holds the one-time secret and the
//! cluster CA, so that the engine can authenticate the controller at its first contact.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Prefix of the text form; the digit is the form's version.
pub const PREFIX: &str = "ekjoin1.";

/// What the token says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Which token it is.
    pub id: String,
    /// What proves it; good for one engine.
    pub secret: String,
    /// The cluster CA, PEM.
    pub ca_pem: String,
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It starts otherwise.
    #[error("a join token starts with {PREFIX}; make one with `evenkeel jointoken create`")]
    Prefix,
    /// Part of it is missing or changed.
    #[error("the join token is damaged; copy it whole, on one line")]
    Damaged,
}

impl JoinToken {
    /// The text form.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("three strings always serialise");
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// Reads the text form; white space around it is ignored.
    ///
    /// # Errors
    /// It is no token, or not a whole one.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let json = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Damaged)?;
        serde_json::from_slice(&json).map_err(|_| TokenError::Damaged)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: "t1".into(),
            secret: "hidden".into(),
            ca_pem: "-----BEGIN".into(),
        }
    }

    #[test]
    fn a_token_survives_its_text_form_with_white_space_around_it() {
        assert_eq!(
            JoinToken::decode(&format!(" {}\n", token().encode())),
            Ok(token())
        );
    }

    #[test]
    fn what_is_no_token_or_only_part_of_one_is_told_apart() {
        assert_eq!(JoinToken::decode("hello"), Err(TokenError::Prefix));
        let text = token().encode();
        assert_eq!(
            JoinToken::decode(&text[..text.len() - 5]),
            Err(TokenError::Damaged)
        );
    }

    #[test]
    fn the_secret_does_not_show_in_debug() {
        assert!(!format!("{:?}", token()).contains("hidden"));
    }
}
