//! The laws of change, over generated meshes: what is made from what was before is what is made anew.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the scale comes from the environment")]

#[path = "support/generate.rs"]
mod generate;
#[path = "support/worlds.rs"]
mod worlds;

use std::sync::Arc;

use generate::{Random, Wish};
use policy::Mesh;
use policy::table::{Reckoning, differing_ports, entries_at_most, table, table_after};
use serde_json::json;
use worlds::{SIDECAR, WORLDS, assert_disjoint, worlds};

#[test]
fn a_table_made_from_the_one_before_has_the_verdicts_of_one_made_anew() {
    let (mut in_part, mut changed) = (0_u64, 0_u64);
    for (seed, mut random, world) in worlds(13) {
        let mut mesh = world.mesh();
        let (id, address) = (world.workloads[0].id.clone(), random.pick(&world.workloads[0].addresses));
        let mut before = policy::compile(&mesh, 1, None);
        let mut made = table(&before, &id, address).unwrap();
        let mut reckoning = Reckoning::default();
        for step in 0..6 {
            if random.percent(20) {
                change(&mut random, &mut mesh, 50 + step);
            } else {
                change_at_ports(&mut random, &mut mesh, 50 + step);
            }
            let after = policy::compile(&mesh, before.generation() + 1, Some(&before));
            let differing = differing_ports(&before, &after, &id);
            let next = table_after(&after, &id, address, (&before, &made)).unwrap();
            let fresh = policy::compile(&mesh, after.generation(), None);
            let anew = table(&fresh, &id, address).unwrap();
            for _ in 0..8 {
                let connection = generate::connection(&mut random, &world);
                let [one, other] = [&after, &fresh].map(|snapshot| format!("{:?}", snapshot.decide(&id, &connection)));
                assert_eq!(one, other, "seed {seed} step {step}: {connection:?}");
            }
            reckoning.update(&mesh);
            let (workload, at_most) = (&mesh.workloads[0], entries_at_most(&mesh, &mesh.workloads[0]));
            assert_eq!(reckoning.entries_at_most(&mesh, workload), at_most, "seed {seed} step {step}");
            assert!(anew.entries.len() <= at_most, "seed {seed} step {step}");
            assert_disjoint(&next);
            assert!(
                next.entries.is_sorted_by_key(|entry| (*entry.ports.start(), *entry.sources.start())),
                "seed {seed}"
            );
            let cut = after.cut(&id, address).unwrap();
            for (sources, ports) in
                cut.sources.iter().flat_map(|sources| cut.ports.iter().map(move |ports| (sources, ports)))
            {
                for (source, port) in [(*sources.start(), *ports.start()), (*sources.end(), *ports.end())] {
                    if source.to_canonical() != source {
                        continue; // no peer has such an address (S-57)
                    }
                    let verdicts = [&next, &anew].map(|table| table.verdict(source, port));
                    assert_eq!(verdicts[0], verdicts[1], "seed {seed} step {step}: {source} to port {port}");
                    if made.verdict(source, port) != verdicts[0]
                        && let Some(differing) = &differing
                    {
                        assert!(differing.contains(&port), "seed {seed} step {step}: {source} to port {port}");
                        changed += 1;
                    }
                }
            }
            in_part += u64::from(differing.is_some_and(|ports| !ports.is_empty()));
            (before, made) = (after, next);
        }
    }
    assert!(in_part > WORLDS / 2 && changed > WORLDS, "{in_part} made in part, {changed} verdicts changed by that");
}

/// Takes a policy away or adds one, now and then in the place of another, whose rules all name ports.
fn change_at_ports(random: &mut Random, mesh: &mut Mesh, number: usize) {
    let wish = Wish { profile: mesh.settings.profile, ..SIDECAR };
    let mut document = generate::policy(random, number, wish, &mesh.settings);
    for rule in document["spec"]["rules"].as_array_mut().into_iter().flatten().filter(|rule| rule.is_object()) {
        let ports: Vec<String> = (0..=random.below(2)).map(|_| generate::port(random).to_string()).collect();
        rule["to"] = json!([{ "operation": { "ports": ports } }]);
    }
    if random.percent(40) && !mesh.policies.is_empty() {
        mesh.policies.remove(random.below(mesh.policies.len()));
    }
    if random.percent(80) {
        mesh.policies.extend(policy::parse::authorization_policy(&document, &mesh.settings).value.map(Arc::new));
    }
}

/// Changes one thing of a mesh; a policy that comes has this number in its name.
fn change(random: &mut Random, mesh: &mut Mesh, number: usize) {
    match random.below(6) {
        0 => drop(mesh.policies.pop()),
        1 => drop(mesh.peer_authentications.pop()),
        2 => mesh.workloads[1].service_account = "other".to_owned(),
        4 if !mesh.policies.is_empty() => {
            // Another content under the same name.
            let index = random.below(mesh.policies.len());
            let mut changed = (*mesh.policies[index]).clone();
            changed.rules.push(policy::spec::Rule::default());
            mesh.policies[index] = Arc::new(changed);
        }
        3 => mesh.workloads[0].labels = [("app".to_owned(), "z".to_owned())].into(),
        _ => {
            let wish = Wish { profile: mesh.settings.profile, ..SIDECAR };
            let document = generate::policy(random, number, wish, &mesh.settings);
            mesh.policies.extend(policy::parse::authorization_policy(&document, &mesh.settings).value.map(Arc::new));
        }
    }
}

#[test]
fn compiling_on_top_of_the_snapshot_before_is_compiling_anew() {
    let (mut shared, mut same_tables) = (0, 0);
    for (seed, mut random, world) in worlds(9) {
        let mut mesh = world.mesh();
        let before = policy::compile(&mesh, 1, None);
        change(&mut random, &mut mesh, 50);
        let after = policy::compile(&mesh, 2, Some(&before));
        let anew = policy::compile(&mesh, 2, None);
        for workload in &mesh.workloads {
            let (old, new) = (before.workload(&workload.id).unwrap(), after.workload(&workload.id).unwrap());
            shared += u64::from(Arc::ptr_eq(old, new));
            let tables =
                [&before, &after, &anew].map(|snapshot| table(snapshot, &workload.id, workload.addresses[0]).unwrap());
            assert_eq!(tables[1], tables[2], "seed {seed}");
            if after.same_table(&before, &workload.id) {
                same_tables += 1;
                assert_eq!(tables[0], tables[1], "seed {seed}");
            }
        }
        for _ in 0..20 {
            let connection = generate::connection(&mut random, &world);
            let id = &mesh.workloads[0].id;
            let (one, two) = (after.decide(id, &connection), anew.decide(id, &connection));
            assert_eq!((one.reason, one.policy, one.rule), (two.reason, two.policy, two.rule), "seed {seed}");
        }
    }
    assert!(
        shared > WORLDS && same_tables > WORLDS,
        "{shared} states shared, {same_tables} tables known to be the same"
    );
}
