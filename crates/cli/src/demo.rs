//! `demo`: a throw-away mesh plays a walkthrough, command by command: what a user would type, what came back, and one
//! line why. It ends by itself and leaves nothing behind.

mod play;
mod script;

use std::io::BufRead;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use control::walkthrough::{self, Step};

use crate::args::{DataDirArgument, DemoArguments};
use crate::exit::{Exit, Failure, Outcome};
use crate::mesh::{Mesh, Options};
use crate::print;
use crate::settings::Place;

/// Plays the walkthrough; exit code 1 names the first step that came out otherwise than its text says.
pub(crate) fn run(arguments: &DemoArguments) -> Outcome {
    let text = if arguments.asm { walkthrough::ASM } else { walkthrough::ISTIO };
    let steps = walkthrough::parse(text)?;
    crate::rights::passing(None)?;
    let folder = own_folder()?;
    let place = Place::resolve(&DataDirArgument { data_dir: Some(folder) })?;
    crate::up::log_to_stderr();
    crate::up::raise_descriptor_limit();
    let runtime = crate::up::runtime()?;
    let played = runtime.block_on(async {
        place.make_data_dir()?;
        let mesh = Mesh::start(&place, Options { port: Some(0), ..Options::default() }).await?;
        let ended = tokio::select! {
            played = play_all(&mesh, &steps, arguments.step) => played,
            told = mesh.until_told_to_end() => Err(told.map_or_else(Failure::from, |()| Failure::says(Exit::Failure, "interrupted; the mesh of the demo is removed"))),
        };
        mesh.stop().await?;
        ended
    });
    let cleaned = crate::down::remove_from_machine(&place);
    let purged = crate::down::purge(&place);
    played?;
    cleaned?;
    purged?;
    print::out(format_args!(
        "\nAll {} steps came out as the text says. Nothing was left behind.\nYour own mesh: tidegate up\n",
        steps.len()
    ))
}

/// A folder that was not there before: whoever can write beside it may have laid a link of that name.
fn own_folder() -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    made.with_context(|| format!("making `{}`", folder.display()))?;
    Ok(folder)
}

async fn play_all(mesh: &Mesh, steps: &[Step], wait: bool) -> Outcome {
    let mut player = play::Player::new(mesh);
    for (number, step) in steps.iter().enumerate() {
        if wait {
            enter().await?;
        }
        print::out(format_args!("\n[{}/{}] $ {}\n", number + 1, steps.len(), step.command))?;
        let outcome = player.play(step).await;
        // First: it may be why the step came out otherwise, or why it did not.
        if mesh.rewritten().await? > 0 {
            let what = "somebody else changed the tables of verdicts; they were written anew, but what the step shows is not sure";
            return Err(Failure::says(Exit::Failure, format!("{}: {what}", in_step(number, step))));
        }
        let told = outcome.with_context(|| in_step(number, step))?;
        print::out(format_args!("{}    why: {}\n", told.output, told.why))?;
        if step.output.as_ref().is_some_and(|expected| *expected != told.output) {
            let expected = step.output.as_deref().unwrap_or_default();
            let what = format!(
                "{}: the text says `{}`, this mesh said `{}`",
                in_step(number, step),
                expected.trim_end(),
                told.output.trim_end()
            );
            return Err(Failure::says(Exit::Failure, what));
        }
    }
    Ok(())
}

fn in_step(number: usize, step: &Step) -> String {
    format!("step {} (`{}`)", number + 1, step.command.lines().next().unwrap_or_default())
}

/// Waits for a line on standard input.
async fn enter() -> anyhow::Result<()> {
    print::err(format_args!("-- Enter for the next step --"));
    let read = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new()));
    match read.await?? {
        0 => Err(anyhow!("standard input ended; without --step the demo needs none")),
        _ => Ok(()),
    }
}
