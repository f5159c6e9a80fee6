//! How a daemon writes its log: the same settings for controller and engine.

use serde::Deserialize;
use std::str::FromStr;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line: `timestamp`, `level`, `target`, `message`, and a key for each value.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("is neither text nor json".into()),
        }
    }
}

/// What was asked for, by flag or file; what was not is the binary's to choose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `log_format`.
    pub format: Option<Format>,
    /// `log_level` as a flag; it wins over the environment.
    pub level_flag: Option<String>,
    /// `log_level` of the file; the environment wins over it.
    pub level_file: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_one_of_two_words() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert_eq!("text".parse(), Ok(Format::Text));
        assert!("xml".parse::<Format>().is_err());
    }
}
