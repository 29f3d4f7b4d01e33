//! What the elector's lines mean. It prints text for people; a line that is a JSON object is for boot: `{"ballot": …}` once
//! it begins to ask for promises, and last of all how it ended.

use gantry_model::error::{Ecode, GanetiError};
use serde_json::Value;

/// One line of the elector.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// For people.
    Text(String),
    /// From here on promises may have been given: it must not be ended for a caller's sake.
    Ballot,
    /// The end: this node has won that epoch.
    Won(u64),
    /// The end: it has only looked.
    Looked,
    /// The end: why not.
    Refused(GanetiError),
}

impl Said {
    /// Reads a line.
    #[must_use]
    pub fn of(line: &str) -> Self {
        let text = || Self::Text(line.to_owned());
        if !line.starts_with('{') {
            return text();
        }
        let Ok(Value::Object(map)) = serde_json::from_str(line) else { return text() };
        if map.contains_key("ballot") {
            return Self::Ballot;
        }
        if map.contains_key("looked") {
            return Self::Looked;
        }
        if let Some(epoch) = map.get("won").and_then(|won| won["epoch"].as_u64()) {
            return Self::Won(epoch);
        }
        map.get("refused").map_or_else(text, |refused| Self::Refused(refusal(refused)))
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Text(_) | Self::Ballot => false,
            Self::Won(_) | Self::Looked | Self::Refused(_) => true,
        }
    }
}

/// A refusal in Ganeti's form; whatever is no fault of the input is one of the state.
fn refusal(refused: &Value) -> GanetiError {
    let text = refused["text"].as_str().unwrap_or("the ballot was not won");
    let ecode = match refused["code"].as_str() {
        Some("wrong_input") => Ecode::WrongInput,
        _ => Ecode::WrongState,
    };
    GanetiError::prereq(text, ecode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(Said::of("node2 answers"), Said::Text("node2 answers".to_owned()));
        assert_eq!(Said::of("{not JSON"), Said::Text("{not JSON".to_owned()));
        assert_eq!(Said::of("{}"), Said::Text("{}".to_owned()));
        assert_eq!(Said::of(r#"{"ballot": {"epoch": 5}}"#), Said::Ballot);
        assert_eq!(Said::of(r#"{"won": {"epoch": 5}}"#), Said::Won(5));
        assert_eq!(Said::of(r#"{"looked": {}}"#), Said::Looked);
        let refused = Said::of(r#"{"refused": {"code": "wrong_input", "text": "this is the master"}}"#);
        assert_eq!(refused, Said::Refused(GanetiError::prereq("this is the master", Ecode::WrongInput)));
        let refused = Said::of(r#"{"refused": {"code": "no_majority", "text": "two are silent"}}"#);
        assert_eq!(refused, Said::Refused(GanetiError::prereq("two are silent", Ecode::WrongState)));
        assert!(refused.is_end() && !Said::Ballot.is_end());
    }
}
