//! The guides' pages, and the code blocks in them.

/// Three homes in an evening.
pub const FIRST_CLUSTER: &str = include_str!("../../../docs/guide/first-cluster.md");
/// One more home.
pub const ADD_A_NODE: &str = include_str!("../../../docs/guide/add-a-node.md");
/// Another provider.
pub const REPLACE_A_BOX: &str = include_str!("../../../docs/guide/replace-a-box.md");
/// Two nodes on one machine.
pub const SEVERAL_NODES: &str = include_str!("../../../docs/guide/several-nodes.md");

/// The contents of a page's code blocks.
///
/// # Panics
/// When there are other than `N`: whoever adds a block adds a step to its walk.
pub fn blocks<const N: usize>(page: &str) -> [String; N] {
    let (mut all, mut block) = (Vec::new(), None::<String>);
    for line in page.lines() {
        let line = line.strip_prefix("  ").unwrap_or(line);
        match (&mut block, line.starts_with("```")) {
            (None, true) => block = Some(String::new()),
            (Some(_), true) => all.extend(block.take()),
            (Some(text), false) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, false) => {}
        }
    }
    all.try_into().unwrap_or_else(|all: Vec<_>| {
        panic!("{} blocks of code, of which {N} are walked", all.len())
    })
}
