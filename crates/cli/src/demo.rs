//! `demo`: a throw-away mesh plays a walkthrough, command by command: what a user would type, what came back, and one
//! line why. It ends by itself and leaves nothing behind.

mod play;
mod script;

use std::io::BufRead;

use anyhow::{Context, anyhow};
use control::walkthrough::{self, Step};

use crate::args::{DataDirArgument, DemoArguments};
use crate::exit::{Exit, Failure, Outcome};
use crate::mesh::{Mesh, Options};
use crate::settings::Place;

/// Plays the walkthrough; exit code 1 names the first step that came out otherwise than its text says.
pub(crate) fn run(arguments: &DemoArguments) -> Outcome {
    let text = if arguments.asm { walkthrough::ASM } else { walkthrough::ISTIO };
    let steps = walkthrough::parse(text)?;
    let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
    let place = Place::resolve(&DataDirArgument { data_dir: Some(folder) })?;
    crate::up::require_root()?;
    crate::up::log_to_stderr();
    crate::up::raise_descriptor_limit();
    let runtime = crate::up::runtime()?;
    let played = runtime.block_on(async {
        place.make_data_dir()?;
        let mesh = Mesh::start(&place, Options { port: Some(0), ..Options::default() }).await?;
        let ended = tokio::select! {
            played = play_all(&mesh, &steps, arguments.step) => played,
            _ = tokio::signal::ctrl_c() => Err(Failure::says(Exit::Failure, "interrupted; the mesh of the demo is removed")),
        };
        mesh.stop().await?;
        ended
    });
    let cleaned = crate::down::remove(&place, true);
    played?;
    cleaned?;
    println!("\nAll {} steps came out as the text says. Nothing was left behind.", steps.len());
    println!("Your own mesh: tidegate up");
    Ok(())
}

async fn play_all(mesh: &Mesh, steps: &[Step], wait: bool) -> Outcome {
    let mut player = play::Player::new(mesh);
    for (number, step) in steps.iter().enumerate() {
        if wait {
            enter().await?;
        }
        println!("\n[{}/{}] $ {}", number + 1, steps.len(), step.command);
        let told = player.play(step).await.with_context(|| in_step(number, step))?;
        print!("{}", told.output);
        println!("    why: {}", told.why);
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
    eprint!("-- Enter for the next step --");
    let read = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new()));
    match read.await?? {
        0 => Err(anyhow!("standard input ended; without --step the demo needs none")),
        _ => Ok(()),
    }
}
