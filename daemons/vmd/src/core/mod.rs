//! What vmd decides, as functions of what it saw.

pub mod why;
