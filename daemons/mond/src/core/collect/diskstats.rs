//! `diskstats`: the first fourteen columns of `/proc/diskstats`. Ganeti's collector fails on the twenty of today's kernels.

use super::LABELS_MAX;
use crate::core::exposition::Family;
use crate::core::report::Gathered;
use serde_json::{Map, Value};

/// Columns and their keys; all but the name are numbers.
const COLUMNS: [&str; 14] = [
    "major",
    "minor",
    "name",
    "readsNum",
    "mergedReads",
    "secRead",
    "timeRead",
    "writes",
    "mergedWrites",
    "secWritten",
    "timeWrite",
    "ios",
    "timeIO",
    "wIOmillis",
];
/// The one that is a text.
const NAME: &str = "name";
/// Bytes of a sector of this table, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;
/// A counter's name, its help, its column, and how many of its units one of the column's is: bytes, or thousandths.
type Counter = (&'static str, &'static str, &'static str, Unit);

#[derive(Debug, Clone, Copy)]
enum Unit {
    One,
    Sectors,
    Milliseconds,
}

const COUNTERS: [Counter; 7] = [
    ("gantry_node_disk_reads", "Reads of a disk", "readsNum", Unit::One),
    ("gantry_node_disk_writes", "Writes of a disk", "writes", Unit::One),
    ("gantry_node_disk_read_bytes", "Bytes read from a disk", "secRead", Unit::Sectors),
    ("gantry_node_disk_written_bytes", "Bytes written to a disk", "secWritten", Unit::Sectors),
    ("gantry_node_disk_read_seconds", "Time of reads, added up", "timeRead", Unit::Milliseconds),
    ("gantry_node_disk_write_seconds", "Time of writes, added up", "timeWrite", Unit::Milliseconds),
    ("gantry_node_disk_io_seconds", "Time in which a disk was busy", "timeIO", Unit::Milliseconds),
];

/// The report of a table.
///
/// # Errors
/// Which line is none of it.
pub fn gathered(text: &str) -> Result<Gathered, String> {
    let row = |(number, line): (usize, &str)| {
        parse(line).ok_or_else(|| format!("line {} of diskstats cannot be read: {line}", number + 1))
    };
    let rows: Vec<Map<String, Value>> = text.lines().enumerate().map(row).collect::<Result<_, _>>()?;
    let families = COUNTERS.iter().map(|counter| family(&rows, counter)).collect();
    Ok(Gathered::figures(rows.into_iter().map(Value::Object).collect(), families))
}

fn parse(line: &str) -> Option<Map<String, Value>> {
    let mut words = line.split_whitespace();
    let mut row = Map::new();
    for column in COLUMNS {
        let word = words.next()?;
        let value = if column == NAME { Value::from(word) } else { Value::from(word.parse::<u64>().ok()?) };
        row.insert(column.to_owned(), value);
    }
    Some(row)
}

fn family(rows: &[Map<String, Value>], (name, help, column, unit): &Counter) -> Family {
    let mut family = Family::counter(name, help);
    // A disk that was never read is no disk worth a line: loop and ram devices.
    let used = rows.iter().filter(|row| row["readsNum"] != 0 || row["writes"] != 0);
    for row in used.take(LABELS_MAX) {
        let (device, value) = (row[NAME].as_str().unwrap_or_default(), row[*column].as_u64().unwrap_or(0));
        let value = match unit {
            Unit::One => value.to_string(),
            Unit::Sectors => value.saturating_mul(SECTOR_BYTES).to_string(),
            #[allow(clippy::cast_precision_loss, reason = "milliseconds of a machine's life")]
            Unit::Milliseconds => (value as f64 / 1000.0).to_string(),
        };
        family.add(&[("device", device)], value);
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OLD: &str = "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n";
    const NEW: &str = "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n";
    const LOOP: &str = "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn fourteen_eighteen_and_twenty_columns_read_the_same() {
        let want = json!([{
            "major": 8, "minor": 0, "name": "sda", "readsNum": 1, "mergedReads": 2, "secRead": 3, "timeRead": 4, "writes": 5,
            "mergedWrites": 6, "secWritten": 7, "timeWrite": 8, "ios": 9, "timeIO": 10, "wIOmillis": 11,
        }]);
        for text in [OLD, NEW, "8 0 sda 1 2 3 4 5 6 7 8 9 10 11 0 0 0 0"] {
            assert_eq!(gathered(text).unwrap().data, want, "{text}");
        }
    }

    #[test]
    fn a_table_that_is_none_is_said() {
        for wrong in ["8 0 sda 1 2 3", "8 0 sda 1 2 3 4 5 6 7 8 9 10 x", "a b c"] {
            assert!(gathered(wrong).unwrap_err().contains("line 1"), "{wrong}");
        }
        assert_eq!(gathered("").unwrap().data, json!([]));
    }

    #[test]
    fn sectors_become_bytes_and_idle_devices_no_metrics() {
        let found = gathered(&format!("{LOOP}{NEW}")).unwrap();
        assert_eq!(found.data.as_array().unwrap().len(), 2);
        let family =
            found.families.iter().find(|family| family.name == "gantry_node_disk_written_bytes").unwrap();
        assert_eq!(family.samples.len(), 1);
        assert_eq!(family.samples[0].value, (7 * 512).to_string());
    }
}
