//! What the played luxid knows: pools, slots, nodes, live jobs; and how it answers from it.

use gantry_proto::stream::StreamEvent;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Instant;
use tokio::sync::broadcast;
use uuid::Uuid;

/// Events a watcher may lag behind.
const EVENTS_MAX: usize = 1024;

pub type Row = Map<String, Value>;

/// One job that was submitted.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: u64,
    pub op: Row,
    /// When it came.
    pub at: Instant,
}

impl Job {
    pub fn is(&self, op: &str) -> bool {
        self.op["OP_ID"] == op
    }

    /// Its slots, by uuid (or by name where the opcode has names).
    pub fn slots(&self) -> Vec<String> {
        let text = |slot: &Value| slot.as_str().or(slot[0].as_str()).unwrap().to_owned();
        self.op["slots"].as_array().unwrap().iter().map(text).collect()
    }
}

/// One query: kind and filter.
pub type Asked = (String, Value);

pub struct World {
    pub rows: BTreeMap<&'static str, BTreeMap<String, Row>>,
    pub jobs: Vec<Job>,
    pub live: BTreeMap<String, u64>,
    pub asked: Vec<Asked>,
    /// Jobs do their work as they are submitted.
    pub works: bool,
    /// Jobs are refused with this text.
    pub refuses: Option<&'static str>,
    pub events: broadcast::Sender<StreamEvent>,
}

impl World {
    pub fn new() -> Self {
        let kinds = ["pool", "blueprint", "slot", "node"];
        let mut world = Self {
            rows: kinds.map(|kind| (kind, BTreeMap::new())).into(),
            jobs: Vec::new(),
            live: BTreeMap::new(),
            asked: Vec::new(),
            works: true,
            refuses: None,
            events: broadcast::Sender::new(EVENTS_MAX),
        };
        world.put("blueprint", json!({"uuid": id(900), "name": "b", "enabled": true}));
        world.put(
            "node",
            json!({"uuid": id(500), "name": "n1", "offline": false, "drained": false, "vm_capable": true, "mtotal": 512}),
        );
        world
    }

    pub fn put(&mut self, kind: &'static str, row: Value) {
        let Value::Object(row) = row else { panic!("no object") };
        let uuid = row["uuid"].as_str().unwrap().to_owned();
        self.rows.get_mut(kind).unwrap().insert(uuid, row);
    }

    pub fn pool(&mut self, wanted: u64) {
        self.put(
            "pool",
            json!({"uuid": id(700), "name": "p", "blueprint": "b", "state": "active", "wanted": wanted, "spare": 0, "lifetime": 0}),
        );
        self.tell("pool", &id(700), "");
    }

    /// Slot `p-NUMBER`, told.
    pub fn slot(&mut self, number: u128, state: &str) {
        self.put(
            "slot",
            json!({"uuid": id(number), "name": format!("p-{number}"), "pool": "p", "node_uuid": id(500),
                   "node_usable": true, "state": state, "generation": 1, "drained": false, "stuck": false,
                   "revision": 1, "wanted_revision": 1}),
        );
        self.tell("slot", &id(number), state);
    }

    /// Changes a field, and tells nobody.
    pub fn set(&mut self, kind: &str, uuid: &str, field: &str, value: Value) {
        self.rows.get_mut(kind).unwrap().get_mut(uuid).unwrap().insert(field.to_owned(), value);
    }

    /// Changes a slot's state, told.
    pub fn turn(&mut self, uuid: &str, state: &str) {
        self.set("slot", uuid, "state", json!(state));
        self.tell("slot", uuid, state);
    }

    pub fn tell(&self, kind: &str, key: &str, state: &str) {
        let changed =
            StreamEvent::Changed { kind: kind.to_owned(), key: key.to_owned(), state: state.to_owned() };
        let _ = self.events.send(changed);
    }

    pub fn state(&self, number: u128) -> &str {
        self.rows["slot"].get(&id(number)).map_or("gone", |row| row["state"].as_str().unwrap())
    }

    pub fn jobs_of(&self, op: &str) -> Vec<&Job> {
        self.jobs.iter().filter(|job| job.is(op)).collect()
    }

    pub fn answer(&mut self, method: &str, args: &Value) -> Result<Value, Value> {
        match method {
            "Query" => {
                self.asked.push((args[0].as_str().unwrap().to_owned(), args[2].clone()));
                Ok(self.query(args))
            }
            "SubmitKeyedJob" => {
                let entries = args[0].as_array().unwrap().clone();
                Ok(entries.iter().map(|entry| self.submit(entry)).collect())
            }
            other => Err(json!(format!("no method {other}"))),
        }
    }

    fn query(&self, args: &Value) -> Value {
        let fields: Vec<&str> = args[1].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
        let wanted: Option<Vec<&str>> = args[2].as_array().map(|filter| {
            assert_eq!(filter[0], "|");
            filter[1..].iter().map(|part| part[2].as_str().unwrap()).collect()
        });
        let cell = |row: &Row, field: &&str| match row.get(*field) {
            Some(Value::Null) | None => json!([2, null]),
            Some(value) => json!([0, value]),
        };
        let rows = self.rows[args[0].as_str().unwrap()].iter();
        let data: Vec<Value> = rows
            .filter(|(uuid, _)| wanted.as_ref().is_none_or(|wanted| wanted.contains(&uuid.as_str())))
            .map(|(_, row)| fields.iter().map(|field| cell(row, field)).collect())
            .collect();
        json!({"fields": [], "data": data})
    }

    fn submit(&mut self, entry: &Value) -> Value {
        if let Some(why) = self.refuses {
            return json!([false, why]);
        }
        let keys: Vec<String> = serde_json::from_value(entry[0].clone()).unwrap();
        if let Some(live) = keys.iter().find_map(|key| self.live.get(key)) {
            return json!([true, live, false]);
        }
        let op = gantry_model::opcode::check(&entry[1][0]).expect("an opcode that luxid takes");
        let job = Job { id: self.jobs.len() as u64 + 1, op, at: Instant::now() };
        self.jobs.push(job.clone());
        if self.works {
            self.work(&job);
        }
        json!([true, job.id, true])
    }

    fn work(&mut self, job: &Job) {
        match job.op["OP_ID"].as_str().unwrap() {
            "OP_POOL_EXPAND" => {
                let wanted = self.rows["pool"][&id(700)]["wanted"].as_u64().unwrap();
                for number in self.rows["slot"].len() as u128..u128::from(wanted) {
                    self.slot(number + 1, "ABSENT");
                }
            }
            "OP_SLOT_CREATE" => job.slots().iter().for_each(|uuid| self.make(uuid)),
            "OP_SLOT_DESTROY" => {
                for uuid in job.slots() {
                    self.turn(&uuid, "ABSENT");
                    self.make(&uuid);
                }
            }
            _ => {}
        }
    }

    fn make(&mut self, uuid: &str) {
        let generation = self.rows["slot"][uuid]["generation"].as_u64().unwrap();
        self.set("slot", uuid, "generation", json!(generation + 1));
        self.turn(uuid, "CREATING");
        self.turn(uuid, "CLEAN");
    }
}

pub fn id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}
