//! luxid.
