//! Properties of the check: it never panics, its results pass unchanged, and secrets always come back.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use gantry_model::opcode::{OP_ID, Type, all, check, is_redacted, redact, restore, summary};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

fn any_json() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-12_i64..12).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        select(vec!["add", "none", "1.2.3.4/8", "<redacted>", "12"]).prop_map(Value::from),
    ];
    let keys = prop_oneof![
        "[a-z/~]{0,4}",
        select(vec!["size", "osparams_secret", "osparams_private_cluster", "join_secret", "mode", "ip"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(keys.clone(), inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
    .boxed()
}

/// Strings of a type that can be the key of an object.
fn text_of(ty: &Type) -> BoxedStrategy<String> {
    match ty {
        Type::Text => ".{1,6}".boxed(),
        Type::OneName(set) => select(set.to_vec()).prop_map(str::to_owned).boxed(),
        Type::Ipv4 => any::<std::net::Ipv4Addr>().prop_map(|a| a.to_string()).boxed(),
        Type::Ipv4Net => (any::<std::net::Ipv4Addr>(), 0..=32).prop_map(|(a, n)| format!("{a}/{n}")).boxed(),
        Type::Ipv6 => any::<std::net::Ipv6Addr>().prop_map(|a| a.to_string()).boxed(),
        Type::Ipv6Net => (any::<std::net::Ipv6Addr>(), 0..=128).prop_map(|(a, n)| format!("{a}/{n}")).boxed(),
        _ => ".{0,6}".boxed(),
    }
}

fn change(object: Value) -> BoxedStrategy<Value> {
    let op = || select(vec!["add", "attach", "modify", "remove", "detach"]);
    let (new, old, bare) = (object.clone(), object.clone(), object);
    prop_oneof![
        (op(), -1_i64..9).prop_map(move |(op, at)| json!([op, at, new])),
        op().prop_map(move |op| json!([op, old])),
        (-1_i64..9).prop_map(move |at| json!([at, bare])),
    ]
    .boxed()
}

/// A value of the type.
fn value_of(ty: &Type) -> BoxedStrategy<Value> {
    match ty {
        Type::Any => any_json(),
        Type::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Type::Int | Type::Val => any::<i64>().prop_map(Value::from).boxed(),
        Type::Uint => (0..i64::MAX).prop_map(Value::from).boxed(),
        Type::Pos => (1..i64::MAX).prop_map(Value::from).boxed(),
        Type::Below(bound) => (0..*bound).prop_map(Value::from).boxed(),
        Type::OneInt(set) => select(set.to_vec()).prop_map(Value::from).boxed(),
        Type::Num => (-1e9..1e9).prop_map(Value::from).boxed(),
        Type::List(item) => vec(value_of(item), 0..3).prop_map(Value::from).boxed(),
        Type::Map(key, item) => btree_map(text_of(key), value_of(item), 0..3)
            .prop_map(|m| Value::Object(m.into_iter().collect()))
            .boxed(),
        Type::Tuple(types) => types.iter().map(value_of).collect::<Vec<_>>().prop_map(Value::from).boxed(),
        Type::Opt(inner) => option::of(value_of(inner)).prop_map(Value::from).boxed(),
        Type::Secret(inner) => value_of(inner),
        Type::OneOf(types) => proptest::strategy::Union::new(types.iter().map(value_of)).boxed(),
        Type::JobRef => {
            prop_oneof![any::<i64>().prop_map(Value::from), "[0-9]{1,18}".prop_map(Value::from)].boxed()
        }
        Type::Disk => (0..9_i64).prop_map(|n| json!({"size": n, "own": n})).boxed(),
        Type::Nic => option::of(".{0,4}").prop_map(|ip| json!({ "ip": ip })).boxed(),
        Type::DiskMod => change(json!({"size": 1, "access": null})),
        Type::NicMod => change(json!({"link": "br0"})),
        Type::Str
        | Type::Text
        | Type::OneName(_)
        | Type::Ipv4
        | Type::Ipv4Net
        | Type::Ipv6
        | Type::Ipv6Net => text_of(ty).prop_map(Value::from).boxed(),
    }
}

/// An opcode with every parameter given, each of its type.
fn valid() -> impl Strategy<Value = Value> {
    (0..all().len()).prop_flat_map(|at| {
        let spec = &all()[at];
        let values: Vec<_> = spec.all_params().map(|p| value_of(&p.ty)).collect();
        values.prop_map(move |values| {
            let keys = spec.all_params().map(|p| p.name.to_owned());
            let mut op: Map<String, Value> = keys.zip(values).collect();
            op.insert(OP_ID.to_owned(), spec.id.into());
            Value::Object(op)
        })
    })
}

/// An opcode of the right keys with anything in them, or with some keys gone.
fn nearly_valid() -> impl Strategy<Value = Value> {
    (valid(), any::<proptest::sample::Index>(), option::of(any_json())).prop_map(|(mut op, at, value)| {
        let map = op.as_object_mut().unwrap();
        let key = map.keys().nth(at.index(map.len())).unwrap().clone();
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
        op
    })
}

fn holds(input: &Value) -> Result<(), TestCaseError> {
    match check(input) {
        Ok(op) => {
            let again = check(&Value::Object(op.clone()));
            prop_assert_eq!(again.as_ref(), Ok(&op), "idempotent");
            prop_assert!(!summary(&op).is_empty());
        }
        Err(error) => prop_assert!(error.to_string().len() < 20_000),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_answered(input in any_json()) {
        holds(&input)?;
    }

    #[test]
    fn valid_opcodes_pass(input in valid()) {
        prop_assert!(check(&input).is_ok(), "{:?}", check(&input));
        holds(&input)?;
    }

    #[test]
    fn nearly_valid_opcodes_are_answered(input in nearly_valid()) {
        holds(&input)?;
    }

    #[test]
    fn secrets_come_back(input in prop_oneof![any_json(), valid(), nearly_valid()]) {
        if let Value::Object(op) = input {
            let mut stored = op.clone();
            let taken = redact(&mut stored);
            prop_assert_eq!(redact(&mut stored), vec![]);
            prop_assert!(taken.is_empty() || is_redacted(&stored));
            restore(&mut stored, &taken);
            prop_assert_eq!(stored, op);
        }
    }
}
