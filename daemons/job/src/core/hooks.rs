//! The hooks of one opcode (`spec/noded.md` §5): which, where, what they are told, and what their failures mean.

use gantry_model::config::{Group, Instance, Node, Params};
use gantry_model::error::GanetiError;
use gantry_proto::effects::{HookEnd, HookPhase, HookStatus};
use serde_json::{Value, json};

/// Failures of hooks told in one error: the rest is counted, as an opcode's result is bounded.
const FAILED_MAX: usize = 100;

/// The hooks of one opcode.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// `OP_ID`.
    op: String,
    /// Name of their directories.
    pub path: &'static str,
    /// What the opcode is about.
    object: &'static str,
    /// Variables by their names without prefix.
    env: Vec<(&'static str, String)>,
    /// The same after the effect, if they differ.
    after: Option<Vec<(&'static str, String)>>,
    /// Where they run before it.
    pre: Places,
    /// Where they run after it.
    post: Places,
}

/// Where hooks run in one phase.
#[derive(Debug, Clone, Default)]
struct Places {
    master: bool,
    nodes: Vec<Node>,
}

/// A hook that ended badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// On which node.
    pub node: String,
    /// Which.
    pub script: String,
    /// What it said.
    pub output: String,
}

impl Hooks {
    /// Hooks of an opcode on the cluster as a whole.
    pub fn cluster(op: &str, path: &'static str, name: &str) -> Self {
        Self::new(op, path, "CLUSTER").with(&[("OP_TARGET", name)])
    }

    /// Hooks of an opcode on a node.
    pub fn node(op: &str, path: &'static str, node: &Node) -> Self {
        Self::new(op, path, "NODE").with(&[("OP_TARGET", &node.name), ("NODE_NAME", &node.name)])
    }

    /// Hooks of an opcode on a group.
    pub fn group(op: &str, path: &'static str, group: &Group) -> Self {
        Self::new(op, path, "GROUP").with(&[("GROUP_NAME", &group.name)])
    }

    /// Hooks of an opcode on an instance; `be` are its filled backend parameters.
    pub fn instance(op: &str, path: &'static str, instance: &Instance, node: &Node, be: &Params) -> Self {
        let number = |name: &str| be.get(name).map(Value::to_string).unwrap_or_default();
        let tags: Vec<&str> = instance.stamp.tags.iter().map(String::as_str).collect();
        let mut hooks = Self::new(op, path, "INSTANCE").with(&[
            ("OP_TARGET", &instance.name),
            ("INSTANCE_NAME", &instance.name),
            ("INSTANCE_PRIMARY", &node.name),
            ("INSTANCE_SECONDARIES", ""),
            ("INSTANCE_OS_TYPE", &instance.os),
            ("INSTANCE_STATUS", instance.admin_state.as_str()),
            ("INSTANCE_MINMEM", &number("minmem")),
            ("INSTANCE_MAXMEM", &number("maxmem")),
            ("INSTANCE_MEMORY", &number("maxmem")),
            ("INSTANCE_VCPUS", &number("vcpus")),
            ("INSTANCE_DISK_TEMPLATE", &instance.disk_template),
            ("INSTANCE_HYPERVISOR", &instance.hypervisor),
            ("INSTANCE_NIC_COUNT", &instance.nics.len().to_string()),
            ("INSTANCE_DISK_COUNT", &instance.disks.len().to_string()),
        ]);
        if tags.iter().map(|tag| tag.len() + 1).sum::<usize>() <= TAGS_BYTES_MAX {
            hooks.env.push(("INSTANCE_TAGS", tags.join(" ")));
        }
        hooks
    }

    fn new(op: &str, path: &'static str, object: &'static str) -> Self {
        let (env, pre, post) = (Vec::new(), Places::default(), Places::default());
        Self { op: op.to_owned(), path, object, env, after: None, pre, post }
    }

    /// With more variables.
    pub fn with(mut self, env: &[(&'static str, &str)]) -> Self {
        self.env.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
        self
    }

    /// Run on the master, before the effect and after it.
    pub fn on_master(mut self) -> Self {
        (self.pre.master, self.post.master) = (true, true);
        self
    }

    /// Run on the master after the effect.
    pub fn after_on_master(mut self) -> Self {
        self.post.master = true;
        self
    }

    /// Run on these nodes before the effect.
    pub fn before_on(mut self, nodes: &[Node]) -> Self {
        self.pre.nodes = nodes.to_vec();
        self
    }

    /// Run on these nodes after it.
    pub fn after_on(mut self, nodes: &[Node]) -> Self {
        self.post.nodes = nodes.to_vec();
        self
    }

    /// What is told after the effect instead, where that differs.
    pub fn became(mut self, env: &[(&'static str, &str)]) -> Self {
        let mut after = self.env.clone();
        for (name, value) in env {
            after.retain(|(known, _)| known != name);
            after.push((name, (*value).to_owned()));
        }
        self.after = Some(after);
        self
    }

    /// Whether there is anywhere to run them in a phase.
    pub fn run_in(&self, phase: HookPhase) -> bool {
        let places = self.places(phase);
        places.master || !places.nodes.is_empty()
    }

    fn places(&self, phase: HookPhase) -> &Places {
        match phase {
            HookPhase::Pre => &self.pre,
            HookPhase::Post => &self.post,
        }
    }

    /// Where they run in a phase, each node once: not where nothing is asked.
    pub fn nodes(&self, phase: HookPhase, master: Option<&Node>) -> Vec<Node> {
        let places = self.places(phase);
        let mut all: Vec<Node> = Vec::new();
        for node in master.filter(|_| places.master).into_iter().chain(&places.nodes) {
            if !node.offline && !all.iter().any(|known| known.uuid == node.uuid) {
                all.push(node.clone());
            }
        }
        all
    }

    /// All variables of a phase. After the effect there are two sets, of before and after.
    pub fn variables(&self, phase: HookPhase, cluster: &str, master: &str) -> Vec<(String, String)> {
        let common = [
            ("OP_CODE", self.op.as_str()),
            ("OBJECT_TYPE", self.object),
            ("CLUSTER", cluster),
            ("MASTER", master),
        ];
        let common = common.map(|(name, value)| (name, value.to_owned()));
        let before = common.iter().chain(&self.env);
        let mut all: Vec<_> = before.map(|(name, value)| (format!("GANETI_{name}"), value.clone())).collect();
        if phase == HookPhase::Post {
            let after = self.after.as_ref().unwrap_or(&self.env);
            all.extend(after.iter().map(|(name, value)| (format!("GANETI_POST_{name}"), value.clone())));
        }
        all
    }
}

/// Most bytes of tags in a variable; more are left out rather than cut.
const TAGS_BYTES_MAX: usize = 16 << 10;

/// Those that ended badly on one node.
pub fn failed(node: &Node, ends: Vec<HookEnd>) -> impl Iterator<Item = Failed> {
    let node = node.name.clone();
    let bad = ends.into_iter().filter(|end| end.status == HookStatus::Failed);
    bad.map(move |end| Failed { node: node.clone(), script: end.script, output: end.output })
}

/// The error of an opcode that hooks forbid: `HooksAbort [[[node, script, output]…]]`.
pub fn abort(failed: &[Failed]) -> GanetiError {
    let mut rows: Vec<Value> =
        failed.iter().take(FAILED_MAX).map(|one| json!([one.node, one.script, one.output])).collect();
    if failed.len() > FAILED_MAX {
        rows.push(json!(["…", "…", format!("and {} more", failed.len() - FAILED_MAX)]));
    }
    GanetiError { class: "HooksAbort".to_owned(), args: vec![Value::Array(rows)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, offline: bool) -> Node {
        serde_json::from_value(json!({
            "uuid": uuid::Uuid::new_v4(), "name": name, "primary_ip": "192.0.2.1", "secondary_ip": "192.0.2.1",
            "master_candidate": true, "offline": offline, "drained": false, "group": uuid::Uuid::nil(),
            "master_capable": true, "vm_capable": true, "powered": true, "serial_no": 1, "ctime": 0.0, "mtime": 0.0,
        }))
        .expect("a node")
    }

    #[test]
    fn variables_are_ganetis() {
        let hooks = Hooks::node("OP_NODE_SET_PARAMS", "node-modify", &node("n2", false))
            .with(&[("DRAINED", "False")])
            .became(&[("DRAINED", "True")]);
        let pre = hooks.variables(HookPhase::Pre, "c", "n1");
        let wanted = [
            ("GANETI_OP_CODE", "OP_NODE_SET_PARAMS"),
            ("GANETI_OBJECT_TYPE", "NODE"),
            ("GANETI_CLUSTER", "c"),
            ("GANETI_MASTER", "n1"),
            ("GANETI_OP_TARGET", "n2"),
            ("GANETI_NODE_NAME", "n2"),
            ("GANETI_DRAINED", "False"),
        ];
        assert_eq!(pre, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let post = hooks.variables(HookPhase::Post, "c", "n1");
        assert_eq!(post[..pre.len()], pre);
        let wanted = [("OP_TARGET", "n2"), ("NODE_NAME", "n2"), ("DRAINED", "True")];
        let wanted = wanted.map(|(name, value)| (format!("GANETI_POST_{name}"), value.to_owned()));
        assert_eq!(post[pre.len()..], wanted);
    }

    #[test]
    fn each_node_is_asked_once_and_offline_ones_never() {
        let (one, two, three) = (node("n1", false), node("n2", true), node("n3", false));
        let names = |hooks: &Hooks, phase| -> Vec<String> {
            hooks.nodes(phase, Some(&one)).into_iter().map(|node| node.name).collect()
        };
        let hooks = Hooks::cluster("OP", "cluster-modify", "c").on_master();
        let some = hooks.clone().after_on(&[three.clone(), two.clone(), one.clone()]);
        assert_eq!(names(&some, HookPhase::Pre), ["n1"]);
        assert_eq!(names(&some, HookPhase::Post), ["n1", "n3"]);
        let after = Hooks::cluster("OP", "cluster-init", "c").after_on_master();
        assert!(!after.run_in(HookPhase::Pre) && after.run_in(HookPhase::Post));
        assert!(hooks.nodes(HookPhase::Pre, None).is_empty(), "a master that is not among the nodes");
    }

    #[test]
    fn failures_are_told_as_ganeti_does_and_in_bounds() {
        let end = |status| HookEnd { script: "x-pre.d/a".to_owned(), status, output: "no".to_owned() };
        let ends = [HookStatus::Skipped, HookStatus::Failed, HookStatus::Succeeded].map(end).to_vec();
        let bad: Vec<_> = failed(&node("n1", false), ends).collect();
        assert_eq!(abort(&bad).to_value(), json!(["HooksAbort", [[["n1", "x-pre.d/a", "no"]]]]));
        let many: Vec<_> = bad.iter().cycle().take(1000).cloned().collect();
        assert_eq!(abort(&many).args[0].as_array().map(Vec::len), Some(FAILED_MAX + 1));
    }
}
