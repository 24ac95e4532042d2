use super::*;

fn hierarchy(name: &str, version1: bool, base: &Path) -> Hierarchy {
    Hierarchy {
        name: name.into(),
        version1: version1.then(|| name.into()),
        directory: base.join("hepto/acides.grumpy"),
        base: base.to_owned(),
    }
}

fn some() -> Limits {
    Limits {
        memory: Some(4 << 30),
        cpu: Some(1500),
        pids: Some(4096),
    }
}

fn shown(writes: &[Write], below: &Path) -> Vec<String> {
    let line = |write: &Write| {
        let path = write.path.strip_prefix(below).unwrap_or(&write.path);
        let maybe = if write.optional { " (if there)" } else { "" };
        format!("{} = {}{maybe}", path.display(), write.value)
    };
    writes.iter().map(line).collect()
}

#[test]
fn version_2_has_all_in_one_cgroup() {
    let root = tempfile::tempdir().unwrap();
    let node = root.path().join("hepto/acides.grumpy");
    fs::create_dir_all(&node).unwrap();
    fs::write(node.join("cgroup.controllers"), "cpuset cpu memory pids\n").unwrap();
    let hierarchies = [hierarchy("", false, root.path())];
    assert_eq!(
        shown(&plan(&hierarchies, &some()).unwrap(), &node),
        [
            "memory.max = 4294967296",
            "memory.swap.max = 0 (if there)",
            "cpu.max = 150000 100000",
            "pids.max = 4096"
        ]
    );
    assert_eq!(
        shown(&plan(&hierarchies, &Limits::default()).unwrap(), &node),
        [
            "memory.max = max",
            "memory.swap.max = max (if there)",
            "cpu.max = max 100000",
            "pids.max = max"
        ],
        "an earlier limit goes"
    );
}

#[test]
fn version_1_has_each_in_its_own() {
    let root = Path::new("/nowhere");
    let hierarchies =
        ["cpu,cpuacct", "memory", "pids"].map(|name| hierarchy(name, true, &root.join(name)));
    assert_eq!(
        shown(&plan(&hierarchies, &some()).unwrap(), root),
        [
            "memory/hepto/acides.grumpy/memory.use_hierarchy = 1 (if there)",
            "memory/hepto/acides.grumpy/memory.memsw.limit_in_bytes = -1 (if there)",
            "memory/hepto/acides.grumpy/memory.limit_in_bytes = 4294967296",
            "memory/hepto/acides.grumpy/memory.memsw.limit_in_bytes = 4294967296 (if there)",
            "cpu,cpuacct/hepto/acides.grumpy/cpu.cfs_period_us = 100000",
            "cpu,cpuacct/hepto/acides.grumpy/cpu.cfs_quota_us = 150000",
            "pids/hepto/acides.grumpy/pids.max = 4096",
        ]
    );
}

#[test]
fn a_kernel_without_the_controller_is_told_only_where_it_is_needed() {
    let hierarchies = [hierarchy("cpu", true, Path::new("/nowhere"))];
    assert!(plan(&hierarchies, &Limits::default()).is_ok());
    let limits = Limits {
        memory: Some(4 << 30),
        ..Limits::default()
    };
    let error = plan(&hierarchies, &limits).unwrap_err();
    assert_eq!(error.code(), "E-LIMITS-APPLY");
    assert!(
        error.fix().unwrap().contains("cgroup_enable=memory"),
        "{error}"
    );
}

#[test]
fn a_scope_is_limited_as_a_whole_and_by_its_properties() {
    let base = Path::new("/sys/fs/cgroup/hepto.slice/hepto-acides.grumpy-pods.scope");
    let of_scope = hierarchy("", false, base);
    assert_eq!(limited(&of_scope), base);
    assert_eq!(
        scope(&of_scope).as_deref(),
        Some("hepto-acides.grumpy-pods.scope")
    );
    assert_eq!(
        properties(&some()),
        [
            "MemoryMax=4294967296",
            "MemorySwapMax=0",
            "CPUQuota=150.0%",
            "TasksMax=4096"
        ]
    );
    assert_eq!(
        properties(&Limits::default()),
        [
            "MemoryMax=infinity",
            "MemorySwapMax=infinity",
            "CPUQuota=",
            "TasksMax=infinity"
        ]
    );
}

#[test]
fn a_refused_process_is_counted_wherever_the_kernel_counts_it() {
    let root = tempfile::tempdir().unwrap();
    let pod = root.path().join("node/kubepods/pod");
    fs::create_dir_all(&pod).unwrap();
    assert_eq!(refused(root.path()), None, "no such file");
    fs::write(root.path().join("pids.events"), "max 0\n").unwrap();
    assert_eq!(refused(root.path()), Some(0));
    // Before Linux 6.11, then since.
    fs::write(pod.join("pids.events"), "max 3\n").unwrap();
    fs::write(root.path().join("node/pids.events"), "max 1\n").unwrap();
    assert_eq!(refused(root.path()), Some(4));
    fs::write(root.path().join("pids.events"), "max 7\n").unwrap();
    assert_eq!(refused(root.path()), Some(7));
}
