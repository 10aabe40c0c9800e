// Drives vmadm with node-vmadm, as Triton's agents do, and reads its events as vm-agent does.
//
//     node node_vmadm.js MODULE
const assert = require('assert');
const util = require('util');
const vmadm = require(process.argv[2]);

const quiet = () => {};
const log = { trace: quiet, debug: quiet, info: quiet, warn: quiet, error: quiet };
const call = (name, ...args) => util.promisify(vmadm[name])(...args);

async function main() {
    const events = [];
    let ready;
    const isReady = new Promise((resolve) => { ready = resolve; });
    vmadm.events({ log, name: 'test' }, (event) => events.push(event), (err, stream) => {
        assert.ifError(err);
        ready(stream);
    });
    const { ev: first, stop } = await isReady;
    assert.strictEqual(first.type, 'ready');
    assert.strictEqual(typeof first.vms, 'object', 'ready carries the inventory');

    const { uuid } = await call('create', { log, brand: 'kvm', autoboot: false, alias: 'a', ram: 64, quota: 5,
        nics: [{ nic_tag: 'admin', model: 'virtio', ips: ['10.7.0.5/24'], mac: '02:00:00:00:00:31' }] });
    assert.strictEqual(uuid.length, 36);
    assert.strictEqual(await call('exists', { log, uuid }), true);
    assert.strictEqual((await call('load', { log, uuid })).alias, 'a');
    await call('update', { log, uuid, alias: 'b', set_tags: { role: 'web' }, update_nics: [{ mac: '02:00:00:00:00:31', ips: ['10.7.0.6/24'] }] });
    const fields = ['uuid', 'alias', 'datasets', 'zfs_data_compression', 'zoneid', 'state', 'snapshots', 'server_uuid', 'v', 'docker'];
    const found = await call('lookup', { alias: 'b' }, { log, fields, include_dni: true });
    assert.deepStrictEqual(found.map((vm) => [vm.uuid, vm.state, vm.snapshots, vm.v]), [[uuid, 'stopped', [], 1]]);
    await call('start', { log, uuid });
    await call('start', { log, uuid });
    assert.ok(JSON.parse(await call('info', { log, uuid, types: ['vnc'] })).vnc);
    await call('reboot', { log, uuid, force: true });
    await call('stop', { log, uuid, force: true });
    await assert.rejects(call('kill', { log, uuid }), (err) => /ENOTRUNNING|Cannot find running/.test(err.code + err.message));
    await call('delete', { log, uuid });
    await assert.rejects(call('load', { log, uuid }), (err) => err.restCode === 'VmNotFound');

    while (!events.some((event) => event.type === 'delete' && event.vm === undefined && event.zonename === uuid)) {
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const own = events.filter((event) => event.zonename === uuid);
    assert.deepStrictEqual([...new Set(own.map((event) => event.type))], ['create', 'modify', 'delete']);
    const changes = own.flatMap((event) => event.changes || []);
    const nic = changes.find((change) => change.prettyPath.startsWith('nics.*.ip'));
    assert.strictEqual(nic.ident, '02:00:00:00:00:31', JSON.stringify(changes));
    stop();
    console.log('node-vmadm: all of it');
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
