//! `--watch`.

use crate::invocation::{healthy, mesh};
use crate::running::Running;

#[test]
fn a_watch_prints_all_again_when_something_has_changed() {
    let folder = healthy();
    let running = Running::start(&["status", "--watch"], folder.path());
    running.until(|line| line.starts_with("node-4"));
    let half = folder.path().join(".half-written");
    std::fs::copy(mesh().join("node-5.yaml"), &half).expect("copy");
    std::fs::rename(&half, folder.path().join("node-5.yaml")).expect("rename");
    running.until(str::is_empty);
    running.until(|line| line.starts_with("NAME"));
    let row = running.until(|line| line.starts_with("node-5"));
    assert!(row.contains("no-record"), "{row}");
}

#[test]
fn a_watch_goes_on_when_the_folder_comes_back() {
    let folder = healthy();
    let nodes = folder.path().join("nodes");
    let aside = folder.path().join("aside");
    std::fs::create_dir(&nodes).expect("a folder");
    for name in ["node-1.yaml", "node-1.podwire.yaml"] {
        std::fs::copy(folder.path().join(name), nodes.join(name)).expect("copy");
    }
    let arguments = ["status", "--watch", "-o", "name"];
    let running = Running::start(&arguments, &nodes);
    running.until(|line| line == "node/node-1");
    std::fs::rename(&nodes, &aside).expect("move away");
    running.until(|line| line.contains("the folder is not there"));
    let name = "node-2.yaml";
    std::fs::copy(folder.path().join(name), aside.join(name)).expect("copy");
    std::fs::rename(&aside, &nodes).expect("move back");
    running.until(|line| line == "node/node-2");
}
