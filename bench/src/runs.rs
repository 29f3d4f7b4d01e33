//! Disposable runs.

use crate::bare::{self, Bare};
use crate::figure::Figure;
use anyhow::Result;

/// Floors only.
pub fn measure() -> Result<Vec<Figure>> {
    Ok(vec![
        Figure { name: "a", value: format!("{:.1}/s", bare::rate(Bare::Runtime)?), aim: "" },
        Figure { name: "b", value: format!("{:.1}/s", bare::rate(Bare::Podman)?), aim: "" },
    ])
}
