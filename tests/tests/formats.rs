//! P12: files of older minor versions still load, with the digest they had.
//!
//! `golden/formats/MAJOR.MINOR/` is frozen when a version is released: nothing rewrites it. A later
//! minor may only add fields that can be absent; what an older one lacks reads as absent.

use std::path::Path;

use bottle_planner::document::{self, Strictness};
use bottle_planner::plan::Plan;
use bottle_planner::resolve::plan;
use bottle_tests::generate::world;
use proptest::prelude::*;
use serde_json::Value;

/// What each frozen plan's digest was when it was frozen.
const FROZEN: [(&str, &str); 1] =
    [("1.0", "sha256:077a6ab5050ca46f3641f3b87b769c68d8dd073072c80f216d424ac2f35e2f8f")];

#[test]
fn frozen_plans_load_and_keep_their_digest() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/formats");
    let count = std::fs::read_dir(&root).expect("frozen formats").count();
    assert_eq!(count, FROZEN.len(), "every frozen version is listed here");
    for (version, digest) in FROZEN {
        let text = std::fs::read_to_string(root.join(version).join("plan.json"));
        let text = text.expect("a frozen plan");
        let read = document::parse::<Plan>(&text, Strictness::Strict);
        let read = read.unwrap_or_else(|e| panic!("{version} does not load any more: {e}"));
        assert_eq!(read.value.format_version, version);
        assert_eq!(read.digest.as_str(), digest, "{version} has another digest now");
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k, without_nulls(v)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A writer that did not know an optional field leaves it out; a reader takes it as absent.
    #[test]
    fn p12_what_is_absent_reads_as_absent(world in world()) {
        let plan = plan(&world.manifest, &world.spec, &world.snapshot).expect("it can be planned");
        let value = serde_json::to_value(&plan).expect("a plan is JSON");
        let older = without_nulls(value).to_string();
        let read = document::parse::<Plan>(&older, Strictness::Strict).expect("it loads");
        prop_assert_eq!(read.value, plan);
    }

    /// A newer writer's unknown fields are refused where a plan is acted upon, and passed over
    /// where it is only shown.
    #[test]
    fn p12_what_is_unknown_is_refused_or_passed_over(world in world(), place in 0usize..4) {
        let plan = plan(&world.manifest, &world.spec, &world.snapshot).expect("it can be planned");
        let mut value = serde_json::to_value(&plan).expect("a plan is JSON");
        let at = match place {
            0 => &mut value,
            1 => &mut value["grants"],
            2 => &mut value["session"]["net"],
            _ => &mut value["actions"][0]["op"],
        };
        at["privileged"] = Value::Bool(true);
        let text = value.to_string();
        let strict = document::parse::<Plan>(&text, Strictness::Strict);
        prop_assert!(strict.expect_err("it is refused").to_string().contains("/privileged"));
        let lenient = document::parse::<Plan>(&text, Strictness::Lenient).expect("it is shown");
        prop_assert_eq!(lenient.value, plan);
    }
}
