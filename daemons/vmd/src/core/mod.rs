//! What vmd decides, as functions of what it saw.

pub mod budget;
pub mod why;
