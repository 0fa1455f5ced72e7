//! Defects that are put into the product, one at a time: a test must fail with each, and pass without it.
//!
//! The tests run in processes of their own, because most of what they look at happens on other threads. The defects of the
//! protocol have directed schedules ([`crate::protocol`]).

use std::process::Command;

use crate::testing::mutation::SEEDED;

/// Whether that test alone passes; its output.
fn run(test: &str, defect: Option<&str>) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env_remove("SEEDED_DEFECT");
    if let Some(name) = defect {
        command.env("SEEDED_DEFECT", name);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("running 1 test"), "{test} is no test:\n{text}");
    (output.status.success(), text)
}

#[test]
fn each_seeded_defect_makes_its_test_fail() {
    for (defect, _, test) in SEEDED {
        let (passes, output) = run(test, None);
        assert!(passes, "{test} fails without a defect:\n{output}");
        let (passes, output) = run(test, Some(defect));
        assert!(!passes && output.contains("1 failed"), "{defect} is not found by {test}:\n{output}");
        println!("{defect:<22} found by {test}");
    }
}

#[test]
fn the_page_of_proofs_names_each_seeded_defect_and_its_test() {
    let page = include_str!("../../docs/proof.md");
    for (defect, _, test) in SEEDED {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{defect}`")));
        assert!(row.is_some_and(|row| row.ends_with(&format!("| `{test}` |"))), "{defect}: {row:?}");
    }
}
