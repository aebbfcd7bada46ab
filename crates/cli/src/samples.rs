//! `samples`: the manifests of the walkthroughs, written where their texts look for them.

use anyhow::Context;

use crate::args::SamplesArguments;
use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::settings::Place;

/// Writes `DIR/samples/…`; a file that is there with other contents is left alone.
pub(crate) fn run(arguments: &SamplesArguments) -> Outcome {
    let owner = Place::resolve(&arguments.place)?;
    let root = arguments.dir.join("samples");
    let mut kept = Vec::new();
    for (name, text) in control::samples::FILES {
        let path = root.join(name);
        if let Some(folder) = path.parent() {
            let missing: Vec<_> = folder.ancestors().take_while(|part| !part.exists()).collect();
            std::fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
            for part in missing.into_iter().filter(|part| !part.as_os_str().is_empty()) {
                owner.give(part)?;
            }
        }
        match std::fs::read_to_string(&path) {
            Ok(found) if found == *text => {}
            Ok(_) => {
                kept.push(path.display().to_string());
                continue;
            }
            Err(_) => {
                std::fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))?;
                owner.give(&path)?;
            }
        }
        print::out(format_args!("{}\n", path.display()))?;
    }
    if kept.is_empty() {
        return Ok(());
    }
    let what = format!("not overwritten, since they differ: {}; remove them or name another DIR", kept.join(", "));
    Err(Failure::says(Exit::Failure, what))
}
