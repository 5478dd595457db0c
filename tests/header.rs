//! include/oyez.h is what cbindgen makes of src/capi: never stale, never written by hand.
//!
//! `make header` rewrites it. Nothing else writes into the source tree.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

/// The files of the boundary, in the order in which one learns them.
const TOPICS: [&str; 7] = ["last_error", "error", "options", "listen", "check", "accept", "connection"];

fn render(root: &Path) -> String {
    let capi = root.join("src/capi");
    let read = |name: &str| std::fs::read_to_string(capi.join(name)).unwrap();
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    config.header = Some(read("preface.h").trim_end().to_owned());
    config.after_includes = Some(read("macros.h"));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for topic in TOPICS.into_iter().chain(["server", "events"]) {
        builder = builder.with_src(capi.join(topic).with_extension("rs"));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_header_is_what_the_source_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("include/oyez.h");
    let rendered = render(root);
    if std::env::var_os("OYEZ_WRITE_HEADER").is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (made, found)) in rendered.lines().zip(committed.lines()).enumerate() {
        assert_eq!(made, found, "include/oyez.h:{} is stale; run `make header`", number + 1);
    }
    assert_eq!(rendered.len(), committed.len(), "include/oyez.h is stale; run `make header`");
}
