//! What nodes have and what is promised of it: to instances homed there and to slots of pools, live or not.

use crate::core::place::{Need, Offer};
use crate::error::OpFail;
use crate::ops::Cx;
use gantry_model::config::{Cluster, Group, Instance, Node, Params, filled, kind};
use gantry_model::pool::{Blueprint, Pool};
use gantry_proto::noded::NodeInfoReply;
use serde_json::Value;
use std::collections::HashMap;

/// What sizes follow from.
pub struct Sizes {
    cluster: Cluster,
    groups: Vec<Group>,
    /// Needs of a VM by its pool's name.
    pools: HashMap<String, Need>,
}

/// Effective backend parameters.
pub fn beparams(cluster: &Cluster, instance: &Instance) -> Params {
    filled(cluster.beparams.get("default").unwrap_or(&Params::new()), &instance.beparams)
}

/// What an instance says it needs.
pub fn own_need(cluster: &Cluster, instance: &Instance) -> Need {
    let effective = beparams(cluster, instance);
    let number = |key: &str, default| effective.get(key).and_then(Value::as_u64).unwrap_or(default);
    Need {
        memory_mib: number("maxmem", 128),
        disk_mib: instance.disks.iter().map(|disk| disk.size).sum(),
        vcpus: number("vcpus", 1),
    }
}

/// What a VM of a blueprint needs.
pub fn blueprint_need(blueprint: &Blueprint) -> Need {
    Need { memory_mib: blueprint.memory_mib, disk_mib: blueprint.disk_mib, vcpus: blueprint.vcpus }
}

impl Sizes {
    /// Reads them.
    pub async fn read(cx: &mut Cx<'_>) -> Result<Self, OpFail> {
        let (cluster, groups) = (cx.master.cluster().await?, cx.master.groups().await?);
        let blueprints: Vec<Blueprint> = cx.master.all(kind::BLUEPRINT).await?;
        let pools: Vec<Pool> = cx.master.all(kind::POOL).await?;
        let need = |pool: Pool| {
            let blueprint = blueprints.iter().find(|one| one.uuid == pool.blueprint)?;
            Some((pool.name, blueprint_need(blueprint)))
        };
        Ok(Self { cluster, groups, pools: pools.into_iter().filter_map(need).collect() })
    }

    /// What is promised to an instance. A slot's blueprint may have changed: its next VM has those sizes, the one that
    /// lives may still have the old ones, so the larger count.
    fn need(&self, instance: &Instance) -> Need {
        let own = own_need(&self.cluster, instance);
        let Some(new) = instance.pool.as_ref().and_then(|pool| self.pools.get(pool)) else { return own };
        Need {
            memory_mib: own.memory_mib.max(new.memory_mib),
            disk_mib: own.disk_mib.max(new.disk_mib),
            vcpus: own.vcpus.max(new.vcpus),
        }
    }

    /// What a node with these facts offers while these instances are homed there.
    pub fn offer(&self, node: &Node, facts: &NodeInfoReply, instances: &[Instance]) -> Offer {
        let mut promised = Need { memory_mib: 0, disk_mib: 0, vcpus: 0 };
        for one in instances.iter().map(|instance| self.need(instance)) {
            promised.add(one);
        }
        let group = self.groups.iter().find(|group| group.uuid == node.group);
        let policy = filled(&self.cluster.ipolicy, group.map_or(&Params::new(), |group| &group.ipolicy));
        Offer {
            node: node.uuid,
            name: node.name.clone(),
            has: Need {
                memory_mib: facts.memory_total_mib.saturating_sub(facts.memory_host_mib),
                disk_mib: facts.disk_total_mib,
                vcpus: facts.cpus,
            },
            promised,
            vcpu_ratio: policy.get("vcpu-ratio").and_then(Value::as_f64).unwrap_or(4.0),
            fellows: 0,
        }
    }
}
