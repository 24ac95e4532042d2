//! Packets made to order, for the tests of both directions.

use super::checksum;

/// What a packet is to be. TCP unless `udp`.
#[derive(Clone, Debug)]
pub(crate) struct Make {
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    pub(crate) port: u16,
    pub(crate) class: u8,
    pub(crate) hops: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) identification: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Default for Make {
    fn default() -> Make {
        Make {
            v6: false,
            udp: false,
            port: 443,
            class: 0,
            hops: 64,
            dont_fragment: true,
            identification: 7,
            sequence: 1000,
            acknowledgement: 77,
            window: 500,
            flags: 0x10,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }
}

impl Make {
    /// The packet, with right checksums.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(5000u16.to_be_bytes());
        transport.extend(self.port.to_be_bytes());
        if self.udp {
            transport.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            transport.extend([0, 0]);
        } else {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(self.acknowledgement.to_be_bytes());
            transport.extend([(20 + self.options.len()) as u8 / 4 * 16, self.flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0, 0, 0, 0]);
            transport.extend(&self.options);
        }
        transport.extend(&self.payload);
        let protocol = if self.udp { 17 } else { 6 };
        let mut packet = if self.v6 {
            let mut header = vec![0x60 | self.class >> 4, self.class << 4, 0, 0];
            header.extend((transport.len() as u16).to_be_bytes());
            header.extend([protocol, self.hops]);
            header.extend([&[0xfd; 15][..], &[1], &[0xfd; 15], &[2]].concat());
            header
        } else {
            let mut header = vec![0x45, self.class];
            header.extend(((20 + transport.len()) as u16).to_be_bytes());
            header.extend(self.identification.to_be_bytes());
            header.extend([
                if self.dont_fragment { 0x40 } else { 0 },
                0,
                self.hops,
                protocol,
                0,
                0,
            ]);
            header.extend([10, 44, 0, 1, 10, 44, 0, 2]);
            checksum::set_ipv4(&mut header);
            header
        };
        let at = packet.len();
        packet.extend(transport);
        let sum = checksum::sum(
            checksum::pseudo(&packet, protocol, packet.len() - at),
            &packet[at..],
        );
        let field = at + if self.udp { 6 } else { 16 };
        packet[field..field + 2].copy_from_slice(&checksum::finish(sum));
        packet
    }
}
