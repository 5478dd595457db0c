//! Gives the shared object what rustc does not: a SONAME, and a mark that it is never unloaded.

#![allow(clippy::disallowed_macros)] // This is how a build script speaks to cargo.
use std::path::{Path, PathBuf};

const SONAME: &str = "liboyez.so.0";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{SONAME}");
    // Without this a host that calls dlclose(3) while one of its threads ends is killed: the thread's destructors
    // would run in code that is gone.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    if let Some(folder) = artifact_folder() {
        link_soname(&folder);
    }
}

/// `target/<profile>`, where cargo puts liboyez.so. Cargo does not name it; OUT_DIR is
/// `target/<profile>/build/oyez-<hash>/out`.
fn artifact_folder() -> Option<PathBuf> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR")?);
    out.ancestors().nth(3).map(Path::to_path_buf)
}

/// Programs linked with `-loyez` look for the SONAME when they start: beside the library, under that name.
fn link_soname(folder: &Path) {
    let link = folder.join(SONAME);
    if std::fs::read_link(&link).is_ok_and(|target| target == Path::new("liboyez.so")) {
        return;
    }
    let _ = std::fs::remove_file(&link);
    if let Err(error) = std::os::unix::fs::symlink("liboyez.so", &link) {
        println!("cargo:warning=cannot create {}: {error}", link.display());
    }
}
