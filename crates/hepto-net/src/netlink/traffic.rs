//! Traffic control: the trees of [`crate::bandwidth`] made, read and taken away.
//!
//! rtnetlink knows the messages and not these kinds of queues, whose attributes are put together here: see
//! linux/pkt_sched.h, linux/pkt_cls.h and linux/tc_act/tc_mirred.h.

use futures_util::StreamExt;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload, Nla, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::InfoKind;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::{LinkDummy, LinkMessageBuilder};

use super::{Netlink, to_io};
use crate::bandwidth::{self, BULK, Class, Direction, INGRESS, Match, Traffic, VITAL};
use crate::error::Error;

/// The upper half of the tree's handles.
const TREE: u16 = 1;
/// HTB_VER's upper half, which the kernel compares.
const HTB_VERSION: u32 = 3;
/// TC_LINKLAYER_ETHERNET: lengths are taken as they are, and no table of them is wanted.
const ETHERNET: u8 = 1;
/// A tick of the kernel's packet scheduler, nanoseconds (PSCHED_SHIFT).
const TICK: u64 = 64;
/// How many bytes a class may send in its turn, a few full packets.
const QUANTUM: u32 = 10 * 1514;
/// ETH_P_ALL, in the order of the network.
const ANY_PROTOCOL: u32 = 0x0300;
/// TC_ACT_STOLEN: the packet goes on by another way.
const STOLEN: u32 = 4;
/// TCA_EGRESS_REDIR.
const REDIRECT: u32 = 1;

/// What is on a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The rate of a whole tree, bits a second; none where one is missing or half made.
    pub rate: Option<u64>,
    /// One is there, whole or not.
    pub shapes: bool,
    /// What comes in is led away.
    pub led: bool,
    /// What went through it.
    pub traffic: Traffic,
}

impl Netlink {
    /// The tree on a link.
    pub(crate) async fn tree(&self, link: u32) -> Result<Tree, Error> {
        let mut tree = Tree::default();
        let mut message = about(link);
        let queues = self.dump(RouteNetlinkMessage::GetQueueDiscipline(message.clone()));
        for queue in queues.await? {
            // Older kernels give those of all links.
            if queue.header.index != message.header.index {
                continue;
            }
            match kind(&queue) {
                Some("htb") if queue.header.handle.major == TREE => {
                    tree.shapes = true;
                    tree.traffic = traffic(&queue);
                }
                Some("ingress") => tree.led = true,
                _ => {}
            }
        }
        if !tree.shapes {
            return Ok(tree);
        }
        message.header.parent = TcHandle::UNSPEC;
        let classes = self.dump(RouteNetlinkMessage::GetTrafficClass(message));
        let bulk = handle(BULK);
        let found = classes.await?;
        let found = found.iter().find(|class| class.header.handle == bulk);
        tree.rate = found.and_then(ceiling).map(|bytes| u64::from(bytes) * 8);
        Ok(tree)
    }

    /// Makes the tree of a rate, in bits a second, on a link; one that is there makes room.
    pub(crate) async fn make_tree(
        &self,
        link: u32,
        rate: u64,
        port: u16,
        direction: Direction,
    ) -> Result<(), Error> {
        self.remove_tree(link).await?;
        let mut root = about(link);
        root.header.parent = TcHandle::ROOT;
        root.header.handle = handle(0);
        // Version, divisor of the quantum, class of what no filter takes, debug, packets past the tree.
        let global = words(&[HTB_VERSION, 10, BULK.into(), 0, 0]);
        describe(&mut root, "htb", vec![attribute(2, global)]);
        self.make(RouteNetlinkMessage::NewQueueDiscipline(root))
            .await?;
        let [whole, vital, bulk] = bandwidth::classes(rate);
        for class in [whole, vital] {
            self.make_class(link, class).await?;
        }
        for wanted in bandwidth::vital(port, direction) {
            let mut filter = about(link);
            filter.header.parent = handle(0);
            filter.header.info = u32::from(wanted.order) << 16 | u32::from(wanted.protocol.to_be());
            let class = words(&[u32::from(TREE) << 16 | u32::from(VITAL)]);
            describe(
                &mut filter,
                "u32",
                vec![attribute(1, class), attribute(5, selector(&wanted))],
            );
            self.make(RouteNetlinkMessage::NewTrafficFilter(filter))
                .await?;
        }
        self.make_class(link, bulk).await?;
        self.make_queue(link, bandwidth::bytes(rate)).await
    }

    async fn make_class(&self, link: u32, class: Class) -> Result<(), Error> {
        let mut message = about(link);
        message.header.parent = handle(class.parent);
        message.header.handle = handle(class.minor);
        describe(&mut message, "htb", vec![attribute(1, parameters(class))]);
        self.make(RouteNetlinkMessage::NewTrafficClass(message))
            .await
    }

    /// The queue of what waits: fair to its flows where the kernel has one that is.
    async fn make_queue(&self, link: u32, rate: u32) -> Result<(), Error> {
        let queue = |kind: &str, options| {
            let mut message = about(link);
            message.header.parent = handle(BULK);
            describe(&mut message, kind, options);
            RouteNetlinkMessage::NewQueueDiscipline(message)
        };
        let options = vec![
            attribute(1, words(&[bandwidth::target(rate)])),
            // Here with all that the kernel keeps about a packet, about as much again.
            attribute(9, words(&[2 * bandwidth::queue(rate)])),
        ];
        match self.make(queue("fq_codel", options)).await {
            Err(error) if error.errno() == Some(Errno::ENOENT as i32) => {}
            made => return made,
        }
        // bfifo's options are no attributes: tc_fifo_qopt alone.
        let mut message = about(link);
        message.header.parent = handle(BULK);
        message.attributes = vec![
            TcAttribute::Kind("bfifo".to_owned()),
            TcAttribute::Other(DefaultNla::new(2, words(&[bandwidth::queue(rate)]))),
        ];
        self.make(RouteNetlinkMessage::NewQueueDiscipline(message))
            .await
    }

    /// Takes the tree of a link away; one that is not there is no error.
    pub(crate) async fn remove_tree(&self, link: u32) -> Result<(), Error> {
        let mut root = about(link);
        root.header.parent = TcHandle::ROOT;
        self.remove_queue(root).await
    }

    /// Leads what comes in on a link through the device `to`.
    pub(crate) async fn lead(&self, link: u32, to: u32) -> Result<(), Error> {
        self.stop_leading(link).await?;
        let mut ingress = about(link);
        ingress.header.parent = TcHandle::INGRESS;
        ingress.header.handle = ingress_handle();
        ingress.attributes = vec![TcAttribute::Kind("ingress".to_owned())];
        self.make(RouteNetlinkMessage::NewQueueDiscipline(ingress))
            .await?;
        let mut filter = about(link);
        filter.header.parent = ingress_handle();
        filter.header.info = 1 << 16 | ANY_PROTOCOL;
        let everything = Match {
            protocol: 0,
            order: 1,
            keys: vec![bandwidth::Key {
                mask: 0,
                value: 0,
                offset: 0,
            }],
        };
        // Index, capabilities, verdict, two counters of the kernel's own, what is done, the device.
        let mirror = words(&[0, 0, STOLEN, 0, 0, REDIRECT, to]);
        let action = [
            attribute(1, b"mirred\0".to_vec()),
            attribute(2, nested(&[attribute(2, mirror)])),
        ];
        let actions = nested(&[attribute(1, nested(&action))]);
        describe(
            &mut filter,
            "u32",
            vec![attribute(7, actions), attribute(5, selector(&everything))],
        );
        self.make(RouteNetlinkMessage::NewTrafficFilter(filter))
            .await
    }

    /// Lets what comes in on a link come in by the straight way again.
    pub(crate) async fn stop_leading(&self, link: u32) -> Result<(), Error> {
        let mut ingress = about(link);
        ingress.header.parent = TcHandle::INGRESS;
        ingress.header.handle = ingress_handle();
        self.remove_queue(ingress).await
    }

    /// Makes the device that what comes in is led through.
    pub(crate) async fn add_ingress(&self) -> Result<(), Error> {
        let message = LinkMessageBuilder::<LinkDummy>::new_with_info_kind(InfoKind::Ifb)
            .name(INGRESS.to_owned())
            .build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(|error| failed(to_io(error)))
    }

    async fn remove_queue(&self, message: TcMessage) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelQueueDiscipline(message);
        match self.request(request, NLM_F_ACK).await {
            // None there, or none but the kernel's own; and an interface that is gone has none either.
            Err(error)
                if [Errno::ENOENT, Errno::EINVAL, Errno::ENODEV]
                    .iter()
                    .any(|gone| error.raw_os_error() == Some(*gone as i32)) =>
            {
                Ok(())
            }
            result => result.map(drop).map_err(failed),
        }
    }

    async fn make(&self, message: RouteNetlinkMessage) -> Result<(), Error> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(message, flags).await.map(drop).map_err(failed)
    }

    async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<TcMessage>, Error> {
        self.request(message, NLM_F_DUMP)
            .await
            .map_err(|error| Error::netlink("reading the queues of the uplink", error))
    }

    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<TcMessage>, std::io::Error> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        let mut answers = self.handle.clone().request(message).map_err(to_io)?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewQueueDiscipline(message)
                    | RouteNetlinkMessage::NewTrafficClass(message),
                ) => found.push(message),
                _ => {}
            }
        }
        Ok(found)
    }
}

fn failed(error: std::io::Error) -> Error {
    match Error::netlink("limiting the uplink", error) {
        Error::Netlink { source, .. } => Error::Bandwidth { source },
        other => other,
    }
}

fn about(link: u32) -> TcMessage {
    TcMessage::with_index(link.cast_signed())
}

fn handle(minor: u16) -> TcHandle {
    TcHandle { major: TREE, minor }
}

fn ingress_handle() -> TcHandle {
    TcHandle {
        major: u16::MAX,
        minor: 0,
    }
}

fn describe(message: &mut TcMessage, kind: &str, options: Vec<DefaultNla>) {
    message.attributes = vec![
        TcAttribute::Kind(kind.to_owned()),
        TcAttribute::Options(options.into_iter().map(TcOption::Other).collect()),
    ];
}

fn attribute(kind: u16, value: Vec<u8>) -> DefaultNla {
    DefaultNla::new(kind, value)
}

fn nested(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// tc_ratespec: length of cells, link layer, overhead, alignment, smallest packet, rate.
fn rate_of(bytes: u32) -> Vec<u8> {
    [&[0, ETHERNET, 0, 0, 0, 0, 0, 0], &bytes.to_ne_bytes()[..]].concat()
}

/// tc_htb_opt: rate, ceiling, their bursts in ticks, quantum, level, priority.
fn parameters(class: Class) -> Vec<u8> {
    let burst = ticks(bandwidth::burst(class.ceiling), class.rate);
    let ceiling_burst = ticks(bandwidth::burst(class.ceiling), class.ceiling);
    [
        rate_of(class.rate),
        rate_of(class.ceiling),
        words(&[burst, ceiling_burst, QUANTUM, 0, class.priority]),
    ]
    .concat()
}

/// How long so many bytes take, in the packet scheduler's ticks.
fn ticks(bytes: u32, rate: u32) -> u32 {
    let nanoseconds = u64::from(bytes) * 1_000_000_000 / u64::from(rate.max(1));
    u32::try_from(nanoseconds / TICK).unwrap_or(u32::MAX)
}

/// tc_u32_sel with its keys.
fn selector(wanted: &Match) -> Vec<u8> {
    const TERMINAL: u8 = 1;
    let count = u8::try_from(wanted.keys.len()).expect("a handful of keys");
    // Flags, shift of an offset, number of keys, a hole; then what only tables of filters use.
    let mut bytes = vec![TERMINAL, 0, count, 0];
    bytes.extend([0; 12]);
    for key in &wanted.keys {
        bytes.extend(key.mask.to_be_bytes());
        bytes.extend((key.value & key.mask).to_be_bytes());
        bytes.extend(key.offset.to_ne_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

fn kind(message: &TcMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        })
}

fn traffic(queue: &TcMessage) -> Traffic {
    let stats = queue
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Stats(stats) => Some(stats),
            _ => None,
        });
    stats.map_or(Traffic::default(), |stats| Traffic {
        bytes: stats.bytes,
        dropped: stats.drops.into(),
    })
}

/// The ceiling in a class's parameters: the rate of the second tc_ratespec.
fn ceiling(class: &TcMessage) -> Option<u32> {
    let options = class
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.first(),
            _ => None,
        })?;
    // Of a kind that it does not know, packet-route gives the whole attribute.
    let TcOption::Other(options) = options else {
        return None;
    };
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let mut found = NlasIterator::new(&bytes).flatten();
    let parameters = found.find(|attribute| attribute.kind() == 1)?;
    let rate = parameters.value().get(20..24)?;
    Some(u32::from_ne_bytes(rate.try_into().ok()?))
}
