//! The guide of the first cluster, every code block of the page in its order.

use std::process::Child;

use hepto_tests::{Inventory, isolated_for, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::friend::{Friend, internet};
use super::page::{FIRST_CLUSTER, blocks};
use crate::seconds;

/// The words of a table's line.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn the_first_cluster_is_walked_as_the_guide_says() {
    isolated_for(seconds(180), || {
        let [
            install,
            version,
            keys,
            default,
            config,
            agent,
            check,
            preflight,
            endpoints,
            run,
            unit,
            status,
            screen,
            peers,
            table,
            ping,
            k3s,
            import,
            sum,
            uninstall,
        ] = blocks(FIRST_CLUSTER);
        let internet = internet();
        let friends = [("grumpy", 1), ("sleepy", 2), ("happy", 3)]
            .map(|(name, number)| Friend::new(name, number, &internet));
        let [grumpy, sleepy, happy] = &friends;
        let before = Inventory::of(&happy.machine);

        // 1. and 2.: the binary, the keys.
        for friend in &friends {
            friend.install(&install);
            assert!(friend.walk(&version).starts_with("hepto-node "));
        }
        grumpy.walk(&keys);
        for friend in [sleepy, happy] {
            friend.take_key(grumpy, "acides.overlay.key");
            friend.take_key(grumpy, "acides.agent.key");
        }

        // 3. and 5.: the config, the port; then 4., the checks.
        for friend in &friends {
            friend.walk(&default);
            friend.fill_in(&config, &agent);
        }
        grumpy.open_port();
        sleepy.open_port();
        for friend in &friends {
            assert!(friend.walk(&check).contains("is a good config"));
            friend.walk(&preflight);
        }
        for (section, lines) in [("", endpoints), ("replaces", k3s)] {
            let with = match section {
                "" => format!("{}{lines}", grumpy.here(&config)),
                _ => grumpy
                    .here(&config)
                    .replace("[k3s]\nenabled = false\n", &lines),
            };
            grumpy.write("/etc/hepto/tried.toml", &with);
            grumpy.walk("hepto-node config check /etc/hepto/tried.toml; rm /etc/hepto/tried.toml");
        }

        // 6.: run in the foreground; then, on one, Ctrl-C and the unit.
        let mut nodes: Vec<Child> = friends.iter().map(|friend| friend.run(&run)).collect();
        friends.iter().for_each(Friend::await_up);
        let mut foreground = nodes.remove(0);
        kill(Pid::from_raw(foreground.id().cast_signed()), Signal::SIGINT).expect("ours");
        assert!(foreground.wait().expect("ours").success());
        grumpy.walk(&unit);
        grumpy.await_up();
        let file = grumpy.walk("cat /etc/systemd/system/hepto-node@.service");
        let start = "ExecStart=/usr/local/bin/hepto-node run";
        assert!(file.contains(start), "{file}");

        look(&friends, [&status, &screen, &peers, &table, &ping]);
        other_commands(grumpy, &import, &sum);

        // The end: the node shows what would go, and asks on the terminal.
        let (dry, real) = uninstall.trim_end().split_once('\n').expect("two commands");
        assert!(happy.walk(dry).contains("/etc/hepto/happy.toml"));
        happy.walk("test -e /etc/hepto/happy.toml");
        happy.walk(&format!("echo happy | script -qec '{real}' /dev/null"));
        assert!(nodes.remove(1).wait().expect("ours").success());
        happy.walk("! test -e /etc/hepto/happy.toml; ! test -e /srv/happy");
        grumpy.walk("hepto-node stop");
        sleepy.walk("hepto-node stop");
        assert!(nodes.remove(0).wait().expect("ours").success());
        let left = Inventory::of(&happy.machine).more_than(&before);
        assert_eq!(left, Vec::<String>::new());
    });
}

/// Step 7: the screens say what the guide shows, but for times and amounts.
fn look(friends: &[Friend; 3], [status, screen, peers, table, ping]: [&str; 5]) {
    let grumpy = &friends[0];
    until(seconds(60), "3 of 3 nodes reachable", || {
        friends
            .iter()
            .all(|friend| friend.walk(status).contains("3 of 3 nodes reachable"))
    });
    let mut shown = String::new();
    // Its session may be the other's doing; the anchors are asked again within 18 s.
    until(seconds(40), "the anchor has answered", || {
        shown = grumpy.walk(status);
        shown.contains("51820 answers") && !shown.contains("problem")
    });
    let [mut promised, mut seen]: [Vec<_>; 2] =
        [screen, &shown].map(|text| text.lines().map(words).collect());
    for first in [&mut promised, &mut seen] {
        first[0].truncate(words("grumpy (master) of acides: ready, up").len());
        first[1].retain(|word| !["ipvlan", "macvlan"].contains(word));
    }
    assert_eq!(promised, seen, "{shown}");

    let shown = grumpy.walk(peers);
    let columns = |text: &str| words(text.lines().next().expect("a heading")).join(" ");
    assert_eq!(columns(table), columns(&shown), "{shown}");
    for (promised, seen) in table.lines().zip(shown.lines()).skip(1) {
        // Name and session; addresses of both families.
        assert_eq!(words(promised)[..2], words(seen)[..2], "{shown}");
        let addresses = |line| words(line).split_off(words(line).len() - 2).join(" ");
        assert_eq!(addresses(promised), addresses(seen), "{shown}");
    }
    assert!(grumpy.walk(ping).contains(" 3 received"));
}

/// What the guide says for who comes from an inventory, and for who compares keys.
fn other_commands(grumpy: &Friend, import: &str, sum: &str) {
    let inventory = "[cluster]\n\
        grumpy ansible_host=1.2.3.4 iface=ens1 ip=2001:db8:1::10/64,192.168.1.123/24 gw=fe80::1,192.168.1.254\n\
        sleepy ansible_host=1.2.3.5 iface=ens1 ip=2001:db8:2::10/64,192.168.1.123/24 gw=fe80::1,192.168.1.254\n\
        [cluster:vars]\n\
        storage_base=/srv\n\
        anchors=[\"2001:db8:1::10\",\"2001:db8:2::10\"]\n\
        master=grumpy\n\
        mtu=1400\n\
        overlay_key=0123456789abcdef0123456789abcdef\n\
        cluster_key=fedcba9876543210fedcba9876543210\n";
    grumpy.write("/srv/inventory.ini", inventory);
    grumpy.walk(&format!("cd /srv; {import}"));
    let mut files: Vec<String> = grumpy
        .walk("ls /srv/acides")
        .lines()
        .map(str::to_owned)
        .collect();
    files.retain(|file| file.ends_with(".toml"));
    assert_eq!(files, ["grumpy.toml", "sleepy.toml"]);
    assert_eq!(words(&grumpy.walk(sum))[0].len(), 64);
}
