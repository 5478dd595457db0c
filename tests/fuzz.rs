//! The target `calls` of `fuzz/` calls every function of the header: what is added there is added to its table too.
#![allow(clippy::unwrap_used)]

use std::path::Path;

#[test]
fn every_exported_function_is_called() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let (header, table) = (read("include/oyez.h"), read("fuzz/src/calls/table.rs"));
    let mut declared = 0;
    // A declaration begins a line; in the text it is indented.
    for line in header.lines().filter(|line| !line.starts_with([' ', '#', '}']) && !line.starts_with("typedef")) {
        let Some((before, _)) = line.split_once('(') else { continue };
        let name = before.rsplit([' ', '*']).next().unwrap_or_default();
        if name.starts_with("oyez_") {
            declared += 1;
            assert!(table.contains(&format!("\"{name}\",")), "{name} is not in the table of fuzz/src/calls/table.rs");
            let is_used = ["(", ")"].iter().any(|behind| table.contains(&format!("{name}{behind}")));
            assert!(is_used, "{name} is listed, and never called");
        }
    }
    assert!(declared > 40, "only {declared} functions were found in the header");
}
