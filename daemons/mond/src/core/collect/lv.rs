//! `lv`: logical volumes, as `lvs` tells them. Without LVM there are none.

use crate::core::report::Gathered;
use serde_json::{Map, Value};

/// What `lvs` is asked for, and the keys of a row, in this order.
pub const COLUMNS: [(&str, Kind); 20] = [
    ("uuid", Kind::Text),
    ("name", Kind::Text),
    ("attr", Kind::Text),
    ("major", Kind::Number),
    ("minor", Kind::Number),
    ("kernel_major", Kind::Number),
    ("kernel_minor", Kind::Number),
    ("size", Kind::Number),
    ("seg_count", Kind::Number),
    ("tags", Kind::Text),
    ("modules", Kind::Text),
    ("vg_uuid", Kind::Text),
    ("vg_name", Kind::Text),
    ("segtype", Kind::Text),
    ("seg_start", Kind::Number),
    ("seg_start_pe", Kind::Number),
    ("seg_size", Kind::Number),
    ("seg_tags", Kind::Text),
    ("seg_pe_ranges", Kind::Text),
    ("devices", Kind::Text),
];

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number, sizes in bytes; -1 where there is none.
    Number,
}

/// The names under which `lvs` knows the columns, after whose order it prints.
const OPTIONS: &str = "lv_uuid,lv_name,lv_attr,lv_major,lv_minor,lv_kernel_major,lv_kernel_minor,lv_size,seg_count,\
    lv_tags,lv_modules,vg_uuid,vg_name,segtype,seg_start,seg_start_pe,seg_size,seg_tags,seg_pe_ranges,devices";

/// Arguments of `lvs`.
#[must_use]
pub fn arguments() -> [&'static str; 7] {
    ["--noheadings", "--units", "B", "--separator", ";", "-o", OPTIONS]
}

/// A disk of an instance on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Whose.
    pub instance: String,
    /// Its volume group and volume.
    pub volume: (String, String),
}

/// The report of what `lvs` printed.
///
/// # Errors
/// Which line is none of it.
pub fn gathered(text: &str, disks: &[Disk]) -> Result<Gathered, String> {
    let row = |line: &str| row(line, disks).ok_or_else(|| format!("a line of lvs cannot be read: {line}"));
    let rows = text.lines().filter(|line| !line.trim().is_empty()).map(row).collect::<Result<Vec<_>, _>>()?;
    Ok(Gathered::figures(Value::Array(rows), Vec::new()))
}

fn row(line: &str, disks: &[Disk]) -> Option<Value> {
    let words: Vec<&str> = line.trim().split(';').collect();
    if words.len() != COLUMNS.len() {
        return None;
    }
    let mut row = Map::new();
    for ((name, kind), word) in COLUMNS.iter().zip(words) {
        let value = match kind {
            Kind::Text => Value::from(word),
            Kind::Number => number(word)?,
        };
        row.insert((*name).to_owned(), value);
    }
    let owner = disks
        .iter()
        .find(|disk| row["vg_name"] == disk.volume.0.as_str() && row["name"] == disk.volume.1.as_str());
    row.insert("instance".to_owned(), owner.map_or(Value::Null, |disk| disk.instance.as_str().into()));
    Some(Value::Object(row))
}

/// `1048576B` and plain numbers; nothing is -1.
fn number(word: &str) -> Option<Value> {
    if word.is_empty() {
        return Some(Value::from(-1));
    }
    word.trim_end_matches('B').parse::<i64>().ok().map(Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LINE: &str = "  nhHq;root;-wi-ao;-1;-1;253;0;1073741824B;1;;;uVh7;xenvg;linear;0B;0;1073741824B;;/dev/sda:0-255;/dev/sda(0)\n";

    #[test]
    fn volumes_are_told_with_their_instances() {
        let disks = [Disk { instance: "inst1".into(), volume: ("xenvg".into(), "root".into()) }];
        let data = gathered(LINE, &disks).unwrap().data;
        assert_eq!(
            data,
            json!([{
                "uuid": "nhHq", "name": "root", "attr": "-wi-ao", "major": -1, "minor": -1, "kernel_major": 253, "kernel_minor": 0,
                "size": 1_073_741_824_u64, "seg_count": 1, "tags": "", "modules": "", "vg_uuid": "uVh7", "vg_name": "xenvg",
                "segtype": "linear", "seg_start": 0, "seg_start_pe": 0, "seg_size": 1_073_741_824_u64, "seg_tags": "",
                "seg_pe_ranges": "/dev/sda:0-255", "devices": "/dev/sda(0)", "instance": "inst1",
            }])
        );
        assert!(gathered(LINE, &[]).unwrap().data[0]["instance"].is_null());
    }

    #[test]
    fn nothing_is_no_volume_and_nonsense_is_said() {
        assert_eq!(gathered("\n", &[]).unwrap().data, json!([]));
        assert!(gathered("a;b", &[]).unwrap_err().contains("a;b"));
        assert!(gathered(&LINE.replace(";253;", ";x;"), &[]).is_err());
        assert_eq!(OPTIONS.split(',').count(), COLUMNS.len());
    }
}
