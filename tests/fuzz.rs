//! The target `calls` of `fuzz/` calls every function of the header: what is added there is added to its table too.
#![allow(clippy::unwrap_used)]

use std::path::Path;

/// The names behind `start` and in front of `end`.
fn names<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(move |rest| rest.split(end).next())
}

#[test]
fn every_exported_function_is_called() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let (header, table) = (read("include/oyez.h"), read("fuzz/src/calls/table.rs"));
    let listed: Vec<&str> = names(&table, "\n    (\"", "\"").collect();
    let mut declared = 0;
    // A declaration begins a line; in the text it is indented.
    for line in header.lines().filter(|line| !line.starts_with([' ', '#', '}']) && !line.starts_with("typedef")) {
        let Some((before, _)) = line.split_once('(') else { continue };
        let name = before.rsplit([' ', '*']).next().unwrap_or_default();
        if name.starts_with("oyez_") {
            declared += 1;
            assert!(listed.contains(&name), "{name} is not in the table of fuzz/src/calls/table.rs");
            assert!(table.contains(&format!("{name}(")), "{name} is listed, and never called");
        }
    }
    assert!(declared > 40, "only {declared} functions were found in the header");
}
