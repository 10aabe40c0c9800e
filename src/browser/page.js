// The browser console: noVNC on a WebSocket that this page's link is good for, once.
import RFB from "./novnc/core/rfb.js";

const $ = (id) => document.getElementById(id);

function say(state, text) {
    $("state").dataset.state = state;
    $("state").textContent = text;
}

async function show() {
    const machine = await (await fetch("machine")).json();
    $("name").textContent = machine.alias || machine.uuid;
    $("name").title = machine.uuid;
    document.title = `${$("name").textContent} - console`;

    const socket = new WebSocket(new URL("screen", location.href.replace(/^http/, "ws")));
    // Before noVNC sees it: the reason is in the closing frame.
    let reason = "";
    socket.addEventListener("close", (event) => { reason = event.reason; });
    const rfb = new RFB($("screen"), socket, { shared: true });
    rfb.scaleViewport = true;
    rfb.addEventListener("connect", () => {
        say("connected", "connected");
        $("cad").disabled = false;
        rfb.focus();
    });
    rfb.addEventListener("disconnect", () => {
        say("ended", `${reason || "the connection broke"}; a link opens once, make another to come back`);
        $("cad").disabled = true;
    });
    $("cad").addEventListener("click", () => { rfb.sendCtrlAltDel(); rfb.focus(); });
    $("full").addEventListener("click", () => { $("screen").requestFullscreen(); rfb.focus(); });
}

show().catch((error) => say("ended", String(error)));
