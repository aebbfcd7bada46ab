//! `image`: images of this mesh: imported from files, listed, removed. The mesh need not run; one that runs sees at once
//! what has changed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use http_body_util::BodyExt;
use local::images::{self, Added, Reference, Store, Stored};
use serde_json::{Value, json};

use crate::args::{DataDirArgument, Format};
use crate::exit::{Exit, ExitWith, Failure, Outcome};
use crate::mesh::IMAGES_PATH;
use crate::settings::Place;
use crate::{client, daemon, print};

/// Digits of an image's id that are shown: enough to tell them apart.
const ID_DIGITS: usize = 12;

/// `image`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct ImageArguments {
    #[command(subcommand)]
    verb: ImageVerb,
}

/// What is done with images.
#[derive(Debug, Subcommand)]
enum ImageVerb {
    /// Import images: an OCI layout (a directory or an archive) or what `docker save` or `podman save` wrote, packed or not
    #[command(
        after_help = "Examples:\n  tidegate image import app.tar\n  docker save app:1 | tidegate image import -\n  \
                            tidegate image import layout/ --name registry.example.com/app:1\n\n\
                            Exit: 0 with the names on standard output, 65 it is no image for this machine, or a broken one"
    )]
    Import(ImportArguments),
    /// List the images that were imported or pulled
    #[command(visible_alias = "ls", after_help = "Example:\n  tidegate image list -o json")]
    List(ListArguments),
    /// Take names of images away, and remove the layers that no image and no container has any more
    #[command(visible_alias = "remove", after_help = "Example:\n  tidegate image rm app:1")]
    Rm(RemoveArguments),
}

#[derive(Debug, Args)]
struct ImportArguments {
    #[command(flatten)]
    place: DataDirArgument,
    /// Directory or archive; `-` is standard input
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Name of the image, in the place of the one that it bears
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct ListArguments {
    #[command(flatten)]
    place: DataDirArgument,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Args)]
struct RemoveArguments {
    #[command(flatten)]
    place: DataDirArgument,
    /// Names, as pods write them
    #[arg(value_name = "IMAGE", required = true)]
    names: Vec<String>,
}

/// Does what was asked.
pub(crate) fn run(arguments: &ImageArguments) -> Outcome {
    match &arguments.verb {
        ImageVerb::Import(arguments) => import(arguments),
        ImageVerb::List(arguments) => list(arguments),
        ImageVerb::Rm(arguments) => remove(arguments),
    }
}

fn import(arguments: &ImportArguments) -> Outcome {
    let name = arguments.name.as_deref().map(named).transpose()?;
    let place = writable(&arguments.place)?;
    // As the user wrote it: a daemon's directory is another.
    let path =
        if arguments.path == Path::new("-") { arguments.path.clone() } else { std::path::absolute(&arguments.path)? };
    let added = images::import(&Store::of(&place.data_dir), &path, name.as_ref()).map_err(told)?;
    for one in &added {
        tell(one);
        for image in &one.images {
            print::out(format_args!("{}\n", image.name))?;
        }
    }
    tell_mesh(&place)
}

/// A name without a digest: an image has the digest that it has.
fn named(text: &str) -> Result<Reference, Failure> {
    let reference = Reference::parse(text).map_err(|why| Failure::says(Exit::Usage, why))?;
    match reference.digest() {
        None => Ok(reference),
        Some(_) => Err(Failure::says(Exit::Usage, format!("`{text}`: a name to be given has a tag, no digest"))),
    }
}

fn tell(added: &Added) {
    let Some(image) = added.images.first() else { return };
    let (id, layers) = (short(image), image.layers.len());
    let size = mebibytes(image.bytes);
    print::err(format_args!("Imported {id}: {layers} layers, {} of them new, {size}", added.fresh));
    if added.devices > 0 {
        print::err(format_args!("note: {} devices in it were left out; containers have those of /dev", added.devices));
    }
    if added.foreign > 0 {
        print::err(format_args!(
            "note: {} files in it belong to other users, whom there are not without root; they are user 0's here",
            added.foreign
        ));
    }
    for image in &added.images {
        let known = Reference::parse(&image.name).ok().filter(|name| images::in_catalogue(name, &image.name).is_some());
        if known.is_some() {
            print::err(format_args!(
                "note: `{}` is a name of the catalogue, for which this machine's own tools run; to run this image, import it under another: --name NAME",
                image.name
            ));
        }
    }
}

fn list(arguments: &ListArguments) -> Outcome {
    let place = Place::resolve(&arguments.place)?;
    let document = match Store::of(&place.data_dir).list() {
        Ok(images) => document(&images),
        Err(error) if rustix::process::geteuid().is_root() => return Err(error.into()),
        Err(_) if daemon::running(&place)?.is_some() => ask(&place)?,
        Err(_) => {
            let what = "images of a mesh of root's are root's, as all that pods are shown; run it again with sudo, or while the mesh runs";
            return Err(Failure::says(Exit::Failure, what));
        }
    };
    match arguments.output {
        Format::Json => print::out(format_args!("{document:#}\n")),
        Format::Table => print::out(format_args!("{}", table(&document))),
    }
}

fn ask(place: &Place) -> Result<Value, Failure> {
    let runtime = client::runtime()?;
    runtime.block_on(async {
        let response = client::get(place, IMAGES_PATH).await.exit_with(Exit::Unreachable)?;
        let body = response.into_body().collect().await.context("reading the list").exit_with(Exit::Unreachable)?;
        serde_json::from_slice(&body.to_bytes()).context("reading the list").exit_with(Exit::Failure)
    })
}

/// The images as JSON.
pub(crate) fn document(images: &[Stored]) -> Value {
    let one = |image: &Stored| {
        json!({
            "name": image.name, "id": image.id, "digests": image.digests, "layers": image.layers, "bytes": image.bytes,
            "since": image.since, "entrypoint": image.defaults.entrypoint, "command": image.defaults.command,
            "environment": image.defaults.environment, "directory": image.defaults.directory, "user": image.defaults.user,
            "stopSignal": image.defaults.stop_signal,
        })
    };
    let images: Vec<_> = images.iter().map(one).collect();
    json!({ "apiVersion": "tidegate.io/v1alpha1", "kind": "ImageList", "images": images })
}

fn table(document: &Value) -> String {
    let mut rows = vec![["NAME", "ID", "LAYERS", "SIZE", "SINCE"].map(str::to_owned)];
    for image in document.get("images").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| image.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let layers = image.get("layers").and_then(Value::as_array).map_or(0, Vec::len);
        let bytes = image.get("bytes").and_then(Value::as_u64).unwrap_or(0);
        let id = text("id").trim_start_matches("sha256:").chars().take(ID_DIGITS).collect();
        rows.push([text("name"), id, layers.to_string(), mebibytes(bytes), text("since")]);
    }
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let line = |row: &[String; 5]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn remove(arguments: &RemoveArguments) -> Outcome {
    let names: Vec<_> = arguments
        .names
        .iter()
        .map(|name| Reference::parse(name))
        .collect::<Result<_, _>>()
        .map_err(|why| Failure::says(Exit::Usage, why))?;
    let place = Place::resolve(&arguments.place)?;
    crate::rights::passing(Some(&place))?;
    if !place.is_a_mesh() {
        return Err(Failure::says(Exit::Failure, format!("no mesh in `{}`, so no images", place.data_dir.display())));
    }
    let writer = Store::of(&place.data_dir).write()?;
    let mut absent = Vec::new();
    for name in &names {
        if writer.forget(name)? {
            print::out(format_args!("{name}\n"))?;
        } else {
            absent.push(name.to_string());
        }
    }
    let removed = writer.sweep()?;
    print::err(format_args!("Removed {removed} layers; those that a container runs on go with the next import or rm"));
    if absent.is_empty() {
        return Ok(());
    }
    let what = format!("no image is named {}; those there are: {}", absent.join(", "), place.command("image list"));
    Err(Failure::says(Exit::Failure, what))
}

/// The place, where its data directory is made if it is not there.
fn writable(argument: &DataDirArgument) -> Result<Place, Failure> {
    let place = Place::resolve(argument)?;
    crate::rights::passing(Some(&place))?;
    place.make_data_dir()?;
    Ok(place)
}

/// What is wrong with an image is the image's fault; all else is the world's.
fn told(error: local::Error) -> Failure {
    let exit = if matches!(error, local::Error::Image { .. }) { Exit::BadInput } else { Exit::Failure };
    Failure::new(exit, error)
}

/// Lets pods that wait for an image look again at once.
fn tell_mesh(place: &Place) -> Outcome {
    if daemon::running(place)?.is_none_or(|daemon| daemon.port == 0) {
        return Ok(());
    }
    let runtime = client::runtime()?;
    if let Err(error) = runtime.block_on(client::post(place, IMAGES_PATH, Vec::new())) {
        print::err(format_args!(
            "note: the mesh could not be told ({error:#}); its pods look again within five minutes"
        ));
    }
    Ok(())
}

fn short(image: &Stored) -> String {
    image.id.letters().chars().take(ID_DIGITS).collect()
}

/// Bytes in the unit that images are spoken of, rounded up: nothing is empty that is not.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
