//! What MonD decides: reports, the answers to requests, metrics. Pure: texts of the machine, times and settings come in
//! as arguments.

pub mod accept;
pub mod answer;
pub mod board;
pub mod catalogue;
pub mod collect;
pub mod exposition;
pub mod format;
pub mod report;
pub mod route;
pub mod settings;
pub mod source;
pub mod tokens;

/// For the fuzz target: a request's path and query up to the first NUL, its Accept header after it.
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, accept) = text.split_once('\0').unwrap_or((&text, ""));
    let board = board::Board::new(&settings::Settings::default());
    let _ = answer::answer(&board, "GET", path, Some(accept), 0);
    let _ = format::parse(accept);
}
