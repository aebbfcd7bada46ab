//! `down`: ends the daemon if one runs, then removes whatever is left of the mesh on this machine. Both halves work
//! without the other.

use std::io::ErrorKind;

use anyhow::Context;
use local::{Host, Node, NodeSettings};

use crate::args::DownArguments;
use crate::contents;
use crate::daemon;
use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::settings::Place;

/// Ends and removes; the objects stay unless `--purge` says otherwise.
pub(crate) fn run(arguments: &DownArguments) -> Outcome {
    let place = Place::resolve(&arguments.place)?;
    crate::rights::passing(Some(&place))?;
    let dir = place.data_dir.display();
    if arguments.purge && place.data_dir.exists() && !place.is_a_mesh() {
        return Err(Failure::says(
            Exit::Usage,
            format!("`{dir}` is not the data directory of a mesh; nothing is removed"),
        ));
    }
    let ended = daemon::end(&place)? | daemon::end_without_lock(&place)?;
    remove_for_good(&place)?;
    if arguments.purge {
        purge(&place)?;
    }
    match (ended, arguments.purge) {
        (_, true) => print::err(format_args!("The mesh of `{dir}` is gone, and its objects with it.")),
        (true, false) => {
            let up = place.command("up");
            print::err(format_args!("The mesh of `{dir}` is down. Its objects are kept; this brings it back: {up}"));
        }
        (false, false) => print::err(format_args!("No mesh ran in `{dir}`; nothing of it is left on this machine.")),
    }
    Ok(())
}

/// Removes processes, namespaces, links, tables, mounts and cgroups of this mesh, and nothing of others: processes
/// first, then what they stood in.
pub(crate) fn remove_from_machine(place: &Place) -> anyhow::Result<()> {
    local::runtime::remove_all(&place.run_dir, &place.data_dir).context("ending pods")?;
    contents::forget_volumes(&place.data_dir)?;
    Node::remove(&node_settings(place)?).context("removing the node's network")?;
    match std::fs::remove_dir_all(&place.run_dir) {
        // The memory that holds them goes with its namespace.
        Err(error) if place.is_apart && error.kind() == ErrorKind::ResourceBusy => Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", place.run_dir.display()))
        }
        _ => Ok(()),
    }
}

/// The same for good: also the namespaces of a mesh without root.
pub(crate) fn remove_for_good(place: &Place) -> anyhow::Result<()> {
    remove_from_machine(place)?;
    crate::rights::let_go(place)
}

/// What the node of this place is made from.
pub(crate) fn node_settings(place: &Place) -> anyhow::Result<NodeSettings> {
    let host = if place.is_apart { Host::Apart } else { Host::Joined };
    Ok(NodeSettings { host, run_dir: place.run_dir.clone(), ..NodeSettings::of(place.id.parse()?) })
}

/// Removes the files of the mesh, and the directory if they were all that is in it.
pub(crate) fn purge(place: &Place) -> Outcome {
    let left = contents::purge(&place.data_dir)?;
    if let Some(name) = left.first() {
        let (dir, name) = (place.data_dir.display(), name.to_string_lossy());
        print::err(format_args!("`{dir}` is kept, for `{name}` and {} more in it are not the mesh's", left.len() - 1));
    }
    Ok(())
}
