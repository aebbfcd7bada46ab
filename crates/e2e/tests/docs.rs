//! The documents say what the tests run.
#![cfg(test)]

use control::walkthrough;
use e2e::workspace_root;

#[test]
fn the_walkthroughs_in_docs_show_the_commands_that_are_run() {
    for (name, text) in [("istio-tcp", walkthrough::ISTIO), ("asm-tcp", walkthrough::ASM)] {
        let path = workspace_root().join(format!("docs/walkthroughs/{name}.md"));
        let document = std::fs::read_to_string(&path).unwrap();
        for step in walkthrough::parse(text).unwrap() {
            let shown = format!("$ {}\n{}", step.command, step.output.as_deref().unwrap_or_default());
            assert!(document.contains(&shown), "{} does not show:\n{shown}", path.display());
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let root = workspace_root();
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            assert!(root.join(target).exists(), "{name} links to `{target}`, which is not there");
        }
    }
}
