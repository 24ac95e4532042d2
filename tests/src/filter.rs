//! Faults of the line, by nftables on the street's bridge.

use std::io::Write;
use std::process::{Command, Stdio};

use hepto_net::lab::{Home, Space, Street};

/// What the street does to packets until this is dropped.
#[derive(Debug)]
pub struct Filter<'a> {
    space: &'a Space,
    table: String,
}

impl<'a> Filter<'a> {
    /// Loses this share of the packets from and to one home, in percent below 100.
    pub fn loss(street: &'a Street, home: &Home, percent: u8) -> Filter<'a> {
        let door = home.door();
        let drop = format!("numgen random mod 100 < {percent} drop");
        Filter::new(
            street,
            door,
            &format!("iifname \"{door}\" {drop}\n oifname \"{door}\" {drop}"),
        )
    }

    /// Loses every packet between two homes; everyone else hears both.
    pub fn apart(street: &'a Street, one: &Home, two: &Home) -> Filter<'a> {
        let (one, two) = (one.door(), two.door());
        let rules = format!(
            "iifname \"{one}\" oifname \"{two}\" drop\n iifname \"{two}\" oifname \"{one}\" drop"
        );
        Filter::new(street, &format!("{one}_{two}"), &rules)
    }

    /// Lets no datagram in to this UDP port of a home, as the gateways of most homes do with what nobody inside has asked.
    pub fn closed(street: &'a Street, home: &Home, port: u16) -> Filter<'a> {
        let door = home.door();
        let rules = format!("oifname \"{door}\" udp dport {port} drop");
        Filter::new(street, &format!("{door}_{port}"), &rules)
    }

    /// Loses packets of more than so many bytes on their way to a home, and says nothing of it: the worst kind of line.
    pub fn narrow(street: &'a Street, home: &Home, bytes: u16) -> Filter<'a> {
        let door = home.door();
        let rules = format!("oifname \"{door}\" meta length > {bytes} drop");
        Filter::new(street, &format!("{door}_narrow"), &rules)
    }

    fn new(street: &'a Street, name: &str, rules: &str) -> Filter<'a> {
        let space = street.space();
        let table = format!("lab_{name}");
        nft(
            space,
            &format!(
                "table bridge {table} {{\n chain forward {{\n type filter hook forward priority 0;\n {rules}\n }}\n}}\n"
            ),
        );
        Filter { space, table }
    }
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        nft(self.space, &format!("delete table bridge {}\n", self.table));
    }
}

/// Runs an nftables script in a space.
fn nft(space: &Space, script: &str) {
    let mut command = Command::new("nft");
    let mut child = space
        .spawn(command.args(["-f", "-"]).stdin(Stdio::piped()))
        .expect("nft starts");
    let mut input = child.stdin.take().expect("it was piped");
    input
        .write_all(script.as_bytes())
        .expect("nft reads its script");
    drop(input);
    assert!(
        child.wait().expect("the child is ours").success(),
        "nft refused:\n{script}"
    );
}
