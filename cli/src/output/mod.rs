//! What the commands print: tables, nested information, values and units in Ganeti's forms. Pure text in,
//! text out, but for [`Screen`], which writes it.

pub mod info;
mod screen;
pub mod table;
pub mod text;
pub mod time;
pub mod units;

pub use screen::Screen;
