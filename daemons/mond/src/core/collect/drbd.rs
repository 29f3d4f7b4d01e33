//! `drbd`: `/proc/drbd` as DRBD 8.4 writes it. Without the module there is nothing to be wrong: status 0, nothing listed.

use crate::core::exposition::Family;
use crate::core::report::{Code, Gathered, Status};
use serde_json::{Map, Value, json};

/// Most devices that metrics tell of.
const DEVICES_MAX: usize = 1024;

/// Indicators of a device's line, and what they are called in reports.
const INDICATORS: [(&str, &str); 13] = [
    ("ns", "networkSend"),
    ("nr", "networkReceive"),
    ("dw", "diskWrite"),
    ("dr", "diskRead"),
    ("al", "activityLog"),
    ("bm", "bitMap"),
    ("lo", "localCount"),
    ("pe", "pending"),
    ("ua", "unacknowledged"),
    ("ap", "applicationPending"),
    ("ep", "epochs"),
    ("wo", "writeOrder"),
    ("oos", "outOfSync"),
];

/// The report of the file, or of there being none. `pairing`: ConfD's answer 7, rows of node, minor, instance and more.
#[must_use]
pub fn gathered(text: Option<&str>, pairing: &Value) -> Gathered {
    let text = text.unwrap_or_default();
    let devices = devices(text, pairing);
    let parts: Vec<Status> = devices.iter().map(status).collect();
    let mut connected =
        Family::gauge("gantry_drbd_connected", "Whether a DRBD device is connected to its peer");
    for (device, part) in devices.iter().zip(&parts).take(DEVICES_MAX) {
        let (minor, instance) =
            (device["minor"].to_string(), device["instance"].as_str().unwrap_or_default());
        // While it syncs or is verified its peer is there.
        let up = *part == Status::ok();
        connected.add(&[("minor", &minor), ("instance", instance)], u8::from(up));
    }
    let data = json!({"versionInfo": version(text), "deviceInfos": devices});
    Gathered::status(data, Status::worst(&parts), vec![connected])
}

/// What the first lines say: `version: 8.4.2 (api:1/proto:86-101)`, `GIT-hash: HASH build by WHO`, `srcversion: HASH`.
fn version(text: &str) -> Value {
    let mut info = Map::new();
    let mut set = |key: &str, value: &str| info.insert(key.to_owned(), Value::from(value));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("version: ") {
            let (number, more) = rest.split_once(" (").unwrap_or((rest, ""));
            set("version", number.trim());
            for piece in more.trim_end_matches(')').split('/') {
                match piece.split_once(':') {
                    Some(("api", value)) => drop(set("api", value)),
                    Some(("proto", value)) => drop(set("proto", value)),
                    Some(_) | None => {}
                }
            }
        } else if let Some(rest) = line.strip_prefix("srcversion: ") {
            set("srcversion", rest.trim());
        } else if let Some(rest) = line.strip_prefix("GIT-hash: ") {
            let (hash, by) = rest.split_once(" build by ").unwrap_or((rest, ""));
            set("gitHash", hash.trim());
            if !by.is_empty() {
                set("buildBy", by.trim());
            }
        }
    }
    Value::Object(info)
}

fn devices(text: &str, pairing: &Value) -> Vec<Value> {
    let mut all: Vec<Map<String, Value>> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(mut device) = device(line) {
            let owner = instance(pairing, &device["minor"]);
            if device["connectionState"] != "Unconfigured" {
                device.insert("instance".to_owned(), owner);
            }
            all.push(device);
        } else if let Some(device) = all.last_mut() {
            if line.starts_with("ns:") {
                device.insert("perfIndicators".to_owned(), indicators(line));
            } else if line.starts_with('[') {
                device.entry("syncStatus").or_insert(Value::Null);
                sync(device, line);
            } else if line.starts_with("finish:") {
                sync(device, line);
            }
        }
    }
    all.into_iter().map(Value::Object).collect()
}

/// ` 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----`
fn device(line: &str) -> Option<Map<String, Value>> {
    let (minor, rest) = line.split_once(": cs:")?;
    let minor: u64 = minor.parse().ok()?;
    let mut words = rest.split_whitespace();
    let mut device = Map::new();
    let mut set = |key: &str, value: Value| device.insert(key.to_owned(), value);
    set("minor", minor.into());
    set("connectionState", words.next()?.into());
    let mut plain = Vec::new();
    for word in words {
        let sides = |pair: &str| pair.split_once('/').map(|(own, other)| (own.to_owned(), other.to_owned()));
        match word.split_once(':') {
            Some(("ro" | "st", pair)) => {
                let (own, other) = sides(pair)?;
                set("localRole", own.into());
                set("remoteRole", other.into());
            }
            Some(("ds", pair)) => {
                let (own, other) = sides(pair)?;
                set("localState", own.into());
                set("remoteState", other.into());
            }
            _ => plain.push(word),
        }
    }
    for (key, word) in ["replicationProtocol", "ioFlags"].into_iter().zip(plain) {
        set(key, word.into());
    }
    Some(device)
}

fn indicators(line: &str) -> Value {
    let mut found = Map::new();
    for word in line.split_whitespace() {
        let Some((short, value)) = word.split_once(':') else { continue };
        let Some((_, name)) = INDICATORS.iter().find(|(known, _)| *known == short) else { continue };
        let value = value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
        found.insert((*name).to_owned(), value);
    }
    Value::Object(found)
}

/// `[>....] sync'ed:  0.6% (28672/28852)M` and `finish: 5:47:07 speed: 1,404 (1,356) want: 250 K/sec`, on one line or two.
fn sync(device: &mut Map<String, Value>, line: &str) {
    let after = |key: &str| Some(line.split_once(key)?.1.split_whitespace().next()?.to_owned());
    let mut status = device.get("syncStatus").and_then(Value::as_object).cloned().unwrap_or_default();
    let number = |text: String| text.replace(',', "").parse::<u64>().ok();
    if let Some(percent) = after("sync'ed:").and_then(|text| text.trim_end_matches('%').parse::<f64>().ok()) {
        status.insert("percentage".to_owned(), percent.into());
    }
    if let Some((progress, unit)) =
        line.split_once('%').and_then(|(_, rest)| rest.trim().strip_prefix('(')?.split_once(')'))
    {
        status.insert("progress".to_owned(), progress.into());
        let unit = if unit.trim_start().starts_with('M') { "MegaByte" } else { "KiloByte" };
        status.insert("progressUnit".to_owned(), unit.into());
    }
    if let Some(time) = after("finish:") {
        status.insert("timeToFinish".to_owned(), time.into());
    }
    for (key, name) in [("speed:", "speed"), ("want:", "want")] {
        if let Some(value) = after(key).and_then(number) {
            status.insert(name.to_owned(), value.into());
            status.insert("speedUnit".to_owned(), "KiloByte/Second".into());
        }
    }
    device.insert("syncStatus".to_owned(), Value::Object(status));
}

/// The instance whose disk has this minor, or null.
fn instance(pairing: &Value, minor: &Value) -> Value {
    let rows = pairing.as_array().into_iter().flatten();
    rows.filter(|row| row[1] == *minor).map(|row| row[2].clone()).next().unwrap_or_default()
}

fn status(device: &Value) -> Status {
    let code = match device["connectionState"].as_str().unwrap_or_default() {
        "StandAlone" | "Disconnecting" | "TearDown" => Code::Bad,
        "Unconnected" | "Timeout" | "BrokenPipe" | "NetworkFailure" | "ProtocolError" | "WFConnection"
        | "WFReportParams" => Code::Temporary,
        _ => return Status::ok(),
    };
    let text = format!("{}: {}", device["minor"], device["connectionState"].as_str().unwrap_or_default());
    Status::new(code, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "version: 8.4.2 (api:1/proto:86-101)\n\
        GIT-hash: 7ad5f850 build by root@build.test, 2013-04-10 07:45:25\n\
         \x20 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n\
        \x20    ns:1 nr:2 dw:3 dr:4 al:5 bm:6 lo:7 pe:8 ua:9 ap:10 ep:11 wo:f oos:12\n\
         \x20 1: cs:SyncTarget ro:Secondary/Primary ds:Inconsistent/UpToDate C r-----\n\
        \x20    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0\n\
        \x20    [>....................] sync'ed:  0.6% (28672/28852)M\n\
        \x20    finish: 5:47:07 speed: 1,404 (1,356) want: 250 K/sec\n\
         \x20 2: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C r-----\n\
         \x20 3: cs:Unconfigured\n\
         \x20 4: cs:StandAlone ro:Primary/Unknown ds:UpToDate/DUnknown   r-----\n";

    #[test]
    fn no_module_is_no_trouble() {
        let found = gathered(None, &Value::Null);
        let want = json!({"versionInfo": {}, "deviceInfos": [], "status": {"code": 0, "message": ""}});
        assert_eq!(found.data, want);
    }

    #[test]
    fn devices_are_read_and_the_worst_counts() {
        let pairing = json!([
            ["n1", 0, "inst1", "disk/0", "primary", "n2"],
            ["n1", 2, "inst2", "disk/0", "primary", "n3"]
        ]);
        let found = gathered(Some(FILE), &pairing);
        let data = &found.data;
        assert_eq!(
            data["versionInfo"],
            json!({
                "version": "8.4.2", "api": "1", "proto": "86-101", "gitHash": "7ad5f850",
                "buildBy": "root@build.test, 2013-04-10 07:45:25",
            })
        );
        let devices = data["deviceInfos"].as_array().unwrap();
        assert_eq!(
            devices[0],
            json!({
                "minor": 0, "connectionState": "Connected", "localRole": "Primary", "remoteRole": "Secondary",
                "localState": "UpToDate", "remoteState": "UpToDate", "replicationProtocol": "C", "ioFlags": "r-----",
                "perfIndicators": {
                    "networkSend": 1, "networkReceive": 2, "diskWrite": 3, "diskRead": 4, "activityLog": 5, "bitMap": 6,
                    "localCount": 7, "pending": 8, "unacknowledged": 9, "applicationPending": 10, "epochs": 11, "writeOrder": "f",
                    "outOfSync": 12,
                },
                "instance": "inst1",
            })
        );
        assert_eq!(
            devices[1]["syncStatus"],
            json!({
                "percentage": 0.6, "progress": "28672/28852", "progressUnit": "MegaByte", "timeToFinish": "5:47:07",
                "speed": 1404, "want": 250, "speedUnit": "KiloByte/Second",
            })
        );
        assert!(devices[1]["instance"].is_null());
        assert_eq!(devices[3], json!({"minor": 3, "connectionState": "Unconfigured"}));
        assert_eq!(data["status"], json!({"code": 4, "message": "2: WFConnection\n4: StandAlone"}));
    }

    #[test]
    fn every_state_that_needs_somebody_is_told() {
        for (state, code) in [
            ("Connected", 0),
            ("SyncSource", 0),
            ("Unconnected", 1),
            ("Timeout", 1),
            ("BrokenPipe", 1),
            ("NetworkFailure", 1),
            ("ProtocolError", 1),
            ("WFConnection", 1),
            ("WFReportParams", 1),
            ("StandAlone", 4),
            ("Disconnecting", 4),
            ("TearDown", 4),
        ] {
            let file = format!(" 7: cs:{state} ro:Primary/Secondary ds:UpToDate/UpToDate C r----\n");
            let found = gathered(Some(&file), &Value::Null);
            assert_eq!(found.data["status"]["code"], code, "{state}");
            let connected = if code == 0 { "1" } else { "0" };
            assert_eq!(found.families[0].samples[0].value, connected, "{state}");
        }
    }
}
