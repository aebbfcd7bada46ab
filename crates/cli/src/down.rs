//! `down`: ends the daemon if one runs, then removes whatever is left of the mesh on this machine. Both halves work
//! without the other.

use anyhow::Context;
use local::{Node, NodeSettings};

use crate::args::DownArguments;
use crate::daemon;
use crate::exit::{Exit, Failure, Outcome};
use crate::settings::Place;

/// Ends and removes; the objects stay unless `--purge` says otherwise.
pub(crate) fn run(arguments: &DownArguments) -> Outcome {
    let place = Place::resolve(&arguments.place)?;
    crate::up::require_root()?;
    if arguments.purge && place.data_dir.exists() && !place.is_a_mesh() {
        let what = format!("`{}` is not the data directory of a mesh; nothing is removed", place.data_dir.display());
        return Err(Failure::says(Exit::Usage, what));
    }
    let ended = daemon::end(&place)?;
    remove(&place, arguments.purge)?;
    let dir = place.data_dir.display();
    match (ended, arguments.purge) {
        (_, true) => eprintln!("The mesh of `{dir}` is gone, and its objects with it."),
        (true, false) => eprintln!("The mesh of `{dir}` is down. Its objects are kept: tidegate up brings it back."),
        (false, false) => eprintln!("No mesh ran in `{dir}`; nothing of it is left on this machine."),
    }
    Ok(())
}

/// Processes first, then what they stood in.
pub(crate) fn remove_from_machine(place: &Place) -> anyhow::Result<()> {
    local::runtime::remove_all(&place.run_dir, &place.data_dir).context("ending pods")?;
    Node::remove(&node_settings(place)?).context("removing the node's network")?;
    match std::fs::remove_dir_all(&place.run_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", place.run_dir.display()))
        }
        _ => Ok(()),
    }
}

/// What the node of this place is made from.
pub(crate) fn node_settings(place: &Place) -> anyhow::Result<NodeSettings> {
    Ok(NodeSettings { run_dir: place.run_dir.clone(), ..NodeSettings::of(place.id.parse()?) })
}

/// Removes processes, namespaces, links, tables, mounts and cgroups of this mesh, and nothing of others.
pub(crate) fn remove(place: &Place, purge: bool) -> Outcome {
    remove_from_machine(place).context("removing what is left of the mesh")?;
    if purge && place.is_a_mesh() {
        let dir = place.data_dir.display();
        std::fs::remove_dir_all(&place.data_dir).with_context(|| format!("removing `{dir}`"))?;
    }
    Ok(())
}
