//! What a path asks for (`spec/mond.md` §1).

/// A place of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// The versions of the protocol.
    Versions,
    /// Nothing, but there.
    Version,
    /// The collectors.
    Collectors,
    /// Every active collector's report.
    All,
    /// One report.
    Report {
        /// Its category's word.
        category: &'a str,
        /// Its collector.
        name: &'a str,
    },
    /// Below reports, but none.
    NoReport,
    /// OpenMetrics or Prometheus' text.
    Metrics,
    /// Not a place.
    Nowhere,
}

/// The place that a request's target names; what follows a `?` has no effect.
#[must_use]
pub fn route(target: &str) -> Route<'_> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    match path {
        "" | "/" => return Route::Versions,
        "/1" | "/1/" => return Route::Version,
        "/1/list/collectors" | "/1/list/collectors/" => return Route::Collectors,
        "/1/report/all" => return Route::All,
        "/metrics" => return Route::Metrics,
        _ => {}
    }
    let Some(rest) = path.strip_prefix("/1/report") else { return Route::Nowhere };
    match rest.strip_prefix('/').and_then(|rest| rest.split_once('/')) {
        Some((category, name)) if !name.is_empty() => Route::Report { category, name },
        Some(_) => Route::NoReport,
        None if rest.is_empty() || rest.starts_with('/') => Route::NoReport,
        None => Route::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let report = |category, name| Route::Report { category, name };
        for (target, want) in [
            ("/", Route::Versions),
            ("/?verbose=1", Route::Versions),
            ("/1", Route::Version),
            ("/1/", Route::Version),
            ("/1/list/collectors", Route::Collectors),
            ("/1/list/collectors/", Route::Collectors),
            ("/1/list", Route::Nowhere),
            ("/1/filter", Route::Nowhere),
            ("/2", Route::Nowhere),
            ("/1/report/all?verbose=1", Route::All),
            ("/1/report", Route::NoReport),
            ("/1/report/", Route::NoReport),
            ("/1/report/storage", Route::NoReport),
            ("/1/report/storage/", Route::NoReport),
            ("/1/report/storage/lv", report("storage", "lv")),
            ("/1/report/storage/lv/x", report("storage", "lv/x")),
            ("/1/reports", Route::Nowhere),
            ("/metrics", Route::Metrics),
            ("/metrics/", Route::Nowhere),
            ("metrics", Route::Nowhere),
        ] {
            assert_eq!(route(target), want, "{target}");
        }
    }
}
