// A replacement for cameras: drawn people who breathe, blink and talk, so that screenshots show
// what the pages are for. An init script; `window.person` selects a person, 0 to 11.

{
  const PEOPLE = [
    { skin: '#8d5a3c', hair: '#1d1512', shirt: '#e9b44c', wall: ['#3f6f76', '#27474e'], style: 'curls', thing: 'plant' },
    { skin: '#f0c8a6', hair: '#b5652b', shirt: '#31556b', wall: ['#efe3d0', '#d3c0a3'], style: 'beard', thing: 'shelf' },
    { skin: '#e3ab82', hair: '#2a1c17', shirt: '#b94e48', wall: ['#aebfa3', '#7d9474'], style: 'long', thing: 'window' },
    { skin: '#5c3a28', hair: '#14100e', shirt: '#7fb7be', wall: ['#d9a58b', '#b57a60'], style: 'short', thing: 'lamp' },
    { skin: '#f3d3b8', hair: '#d9a441', shirt: '#5b4b8a', wall: ['#6d83a8', '#43567a'], style: 'bun', thing: 'picture' },
    { skin: '#c98d63', hair: '#5b3a26', shirt: '#f1ede4', wall: ['#43525c', '#2a353c'], style: 'short', thing: 'plant' },
    { skin: '#efc4a4', hair: '#c9c5c1', shirt: '#3c6e58', wall: ['#e6d9e2', '#bfa6b8'], style: 'glasses', thing: 'shelf' },
    { skin: '#6f4630', hair: '#231815', shirt: '#d96c4f', wall: ['#f2e6c9', '#d8c293'], style: 'scarf', thing: 'window' },
    { skin: '#f0cdb0', hair: '#6e2f1a', shirt: '#8aa35f', wall: ['#56657f', '#333f56'], style: 'long', thing: 'lamp' },
    { skin: '#d39c74', hair: '#161311', shirt: '#c9d6df', wall: ['#8a5a53', '#5e3a36'], style: 'bun', thing: 'picture' },
    { skin: '#f4d7be', hair: '#8a8580', shirt: '#7a3b52', wall: ['#b9cdd3', '#8aa5ae'], style: 'beard', thing: 'plant' },
    { skin: '#9a6644', hair: '#1a1412', shirt: '#f0d9a7', wall: ['#4f5d4a', '#2f3a2c'], style: 'curls', thing: 'shelf' },
  ];
  const size = window.pictureSize ?? { width: 640, height: 360, frameRate: 12 };

  function blob(c, x, y, rx, ry, colour) {
    c.fillStyle = colour;
    c.beginPath();
    c.ellipse(x, y, rx, ry, 0, 0, 7);
    c.fill();
  }

  function box(c, x, y, w, h, r, colour) {
    c.fillStyle = colour;
    c.beginPath();
    c.roundRect(x, y, w, h, r);
    c.fill();
  }

  /** The background, on a stage of 640 by 360. */
  function drawRoom(c, { wall, thing }, t) {
    const light = c.createLinearGradient(0, 0, 640, 360);
    light.addColorStop(0, wall[0]);
    light.addColorStop(1, wall[1]);
    c.fillStyle = light;
    c.fillRect(0, 0, 640, 360);
    c.globalAlpha = 0.55;
    if (thing === 'plant') {
      box(c, 508, 262, 70, 120, 10, '#b97a56');
      for (let i = -3; i <= 3; i += 1) {
        c.save();
        c.translate(543, 268);
        c.rotate(i * 0.36 + 0.03 * Math.sin(t + i));
        blob(c, 0, -66, 15, 66, i % 2 ? '#4c7a51' : '#3a6443');
        c.restore();
      }
    } else if (thing === 'shelf') {
      for (const y of [96, 214]) {
        box(c, 446, y, 194, 8, 2, '#7a5a42');
        const colours = ['#a94f42', '#d8b25c', '#486b7d', '#6f8a60', '#8b6a8f', '#c98f5d'];
        for (let i = 0; i < 6; i += 1) box(c, 462 + i * 27, y - 62 - (i * 37) % 20, 20, 62 + (i * 37) % 20, 2, colours[(i + y) % 6]);
      }
    } else if (thing === 'window') {
      box(c, 34, 34, 170, 200, 6, '#f4efe6');
      box(c, 44, 44, 71, 180, 2, '#bfe0ea');
      box(c, 123, 44, 71, 180, 2, '#bfe0ea');
      blob(c, 90 + 5 * Math.sin(t / 3), 104, 24, 12, '#ffffff');
    } else if (thing === 'lamp') {
      const glow = c.createRadialGradient(118, 96, 6, 118, 96, 190);
      glow.addColorStop(0, '#ffe9b0');
      glow.addColorStop(1, '#ffe9b000');
      c.fillStyle = glow;
      c.fillRect(0, 0, 400, 360);
      box(c, 114, 100, 7, 270, 3, '#3b3532');
      c.fillStyle = '#f6e3b7';
      c.beginPath();
      c.moveTo(92, 60);
      c.lineTo(144, 60);
      c.lineTo(166, 118);
      c.lineTo(70, 118);
      c.fill();
    } else {
      box(c, 452, 44, 138, 108, 3, '#f3eee5');
      box(c, 464, 56, 114, 84, 2, '#8fb0bd');
      c.fillStyle = '#557a63';
      c.beginPath();
      c.moveTo(464, 140);
      c.lineTo(502, 88);
      c.lineTo(530, 120);
      c.lineTo(552, 98);
      c.lineTo(578, 140);
      c.fill();
    }
    c.globalAlpha = 1;
  }

  function shade(colour, by) {
    return `color-mix(in srgb, ${colour} ${100 - by}%, black)`;
  }

  function drawPerson(c, { skin, hair, shirt, style }, t, talks) {
    const sway = 7 * Math.sin(t * 0.7);
    const breath = 2.5 * Math.sin(t * 1.6);
    c.save();
    c.translate(320 + sway, 0);
    if (style === 'long') box(c, -84, 108, 168, 214, 74, hair);
    if (style === 'bun') blob(c, 0, 52, 36, 32, hair);
    if (style === 'curls') for (let i = 0; i < 9; i += 1) blob(c, 86 * Math.cos(Math.PI * (1 + i / 8)), 142 + 84 * Math.sin(Math.PI * (1 + i / 8)), 36, 36, hair);
    // Shoulders and neck
    c.fillStyle = shirt;
    c.beginPath();
    c.moveTo(-176, 380);
    c.bezierCurveTo(-172, 300 - breath, -100, 290 - breath, -40, 274 - breath);
    c.lineTo(40, 274 - breath);
    c.bezierCurveTo(100, 290 - breath, 172, 300 - breath, 176, 380);
    c.fill();
    box(c, -32, 222, 64, 76, 26, shade(skin, 12));
    blob(c, 0, 279 - breath, 42, 18, shade(skin, 12));
    // Head, turned a little while talking
    c.translate(3 * Math.sin(t * 0.9), 3 * Math.sin(t * 1.3) * (talks ? 1 : 0.4));
    c.rotate(0.035 * Math.sin(t * 0.8));
    blob(c, -75, 166, 13, 19, shade(skin, 6));
    blob(c, 75, 166, 13, 19, shade(skin, 6));
    c.fillStyle = skin;
    c.beginPath();
    c.moveTo(-74, 138);
    c.bezierCurveTo(-74, 54, 74, 54, 74, 138);
    c.bezierCurveTo(76, 212, 44, 252, 0, 252);
    c.bezierCurveTo(-44, 252, -76, 212, -74, 138);
    c.fill();
    blob(c, -45, 192, 16, 11, 'rgb(200 80 60 / 16%)');
    blob(c, 45, 192, 16, 11, 'rgb(200 80 60 / 16%)');
    if (style === 'beard') {
      c.fillStyle = hair;
      c.beginPath();
      c.moveTo(-74, 160);
      c.bezierCurveTo(-72, 290, 72, 290, 74, 160);
      c.bezierCurveTo(50, 210, 40, 194, 0, 196);
      c.bezierCurveTo(-40, 194, -50, 210, -74, 160);
      c.fill();
    }
    // Hair
    c.fillStyle = style === 'scarf' ? '#c8553d' : hair;
    c.beginPath();
    c.moveTo(-80, 150);
    c.bezierCurveTo(-92, 30, 92, 30, 80, 150);
    if (style === 'long' || style === 'bun') c.bezierCurveTo(66, 104, 30, 92, -6, 88);
    else c.bezierCurveTo(70, 112, 50, 100, 0, 100);
    c.bezierCurveTo(-50, 104, -70, 112, -80, 150);
    c.fill();
    if (style === 'scarf') blob(c, -30, 58, 44, 26, '#e0734f');
    // Eyes and brows
    const closed = (t * 0.31) % 1 > 0.965;
    const look = 4 * Math.sin(t * 0.5);
    for (const side of [-1, 1]) {
      const x = side * 31;
      if (closed) {
        box(c, x - 12, 152, 24, 4, 2, shade(skin, 45));
      } else {
        blob(c, x, 152, 13, 9, '#fbfaf7');
        blob(c, x + look, 152, 7, 7.5, '#33261f');
        blob(c, x + look + 2.4, 149.5, 2, 2, '#ffffff');
      }
      c.save();
      c.translate(x, 131 - (talks ? 2 * Math.max(0, Math.sin(t * 2.3)) : 0));
      c.rotate(side * 0.1);
      box(c, -16, -3, 32, 6, 3, style === 'scarf' ? '#231815' : shade(hair, 10));
      c.restore();
    }
    if (style === 'glasses') {
      c.strokeStyle = '#2c3338';
      c.lineWidth = 4;
      for (const x of [-31, 31]) {
        c.beginPath();
        c.roundRect(x - 25, 135, 50, 36, 14);
        c.stroke();
      }
      c.beginPath();
      c.moveTo(-6, 150);
      c.quadraticCurveTo(0, 145, 6, 150);
      c.stroke();
    }
    // Nose and mouth
    c.strokeStyle = shade(skin, 28);
    c.lineWidth = 4;
    c.lineCap = 'round';
    c.beginPath();
    c.moveTo(2, 158);
    c.quadraticCurveTo(13, 184, -3, 185);
    c.stroke();
    const open = talks ? 7 * Math.abs(Math.sin(t * 7.3) * Math.sin(t * 2.9)) : 0;
    c.fillStyle = '#8c3d3a';
    c.beginPath();
    c.moveTo(-23, 207);
    c.quadraticCurveTo(0, 217 - open / 2, 23, 207);
    c.quadraticCurveTo(0, 225 + 2.6 * open, -23, 207);
    c.fill();
    if (open > 2.5) box(c, -11, 213, 22, 3.5, 2, '#fbf7f2');
    c.restore();
  }

  function film(person) {
    const canvas = document.createElement('canvas');
    canvas.width = size.width;
    canvas.height = size.height;
    const c = canvas.getContext('2d', { alpha: false });
    const began = performance.now() - 1000 * ((person * 7.7) % 30);
    const draw = () => {
      const t = (performance.now() - began) / 1000;
      c.setTransform(size.width / 640, 0, 0, size.height / 360, 0, 0);
      drawRoom(c, PEOPLE[person], t);
      drawPerson(c, PEOPLE[person], t, window.talks ?? person % 3 === 0);
    };
    draw();
    const stream = canvas.captureStream(size.frameRate);
    const [track] = stream.getVideoTracks();
    track.getSettings = () => ({ width: size.width, height: size.height, frameRate: size.frameRate });
    const timer = setInterval(() => (track.readyState === 'live' ? draw() : clearInterval(timer)), 1000 / size.frameRate);
    return track;
  }

  /** A slide, for a person who shares a screen. */
  function present() {
    const canvas = document.createElement('canvas');
    canvas.width = 960;
    canvas.height = 540;
    const c = canvas.getContext('2d', { alpha: false });
    const draw = () => {
      const t = performance.now() / 1000;
      c.fillStyle = '#fbfaf6';
      c.fillRect(0, 0, 960, 540);
      box(c, 0, 0, 960, 10, 0, '#0b766d');
      c.fillStyle = '#13201f';
      c.font = '700 46px system-ui, sans-serif';
      c.fillText('Visitors of the spring fair', 64, 96);
      c.fillStyle = '#51616a';
      c.font = '400 26px system-ui, sans-serif';
      c.fillText('Each day of the week, in hundreds', 64, 138);
      [42, 58, 51, 77, 96, 138, 121].forEach((height, i) => {
        box(c, 78 + i * 118, 462 - height * 1.9, 74, height * 1.9, 8, i === 5 ? '#d9822b' : '#3b8f87');
        c.fillStyle = '#51616a';
        c.font = '500 22px system-ui, sans-serif';
        c.fillText(['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'][i], 92 + i * 118, 500);
      });
      blob(c, 700 + 60 * Math.sin(t), 250 + 30 * Math.cos(t * 1.3), 9, 9, '#b8202d');
    };
    draw();
    const stream = canvas.captureStream(size.frameRate);
    const [track] = stream.getVideoTracks();
    const timer = setInterval(() => (track.readyState === 'live' ? draw() : clearInterval(timer)), 1000 / size.frameRate);
    return stream;
  }

  const devices = navigator.mediaDevices;
  if (devices && window.person !== undefined) {
    const open = devices.getUserMedia.bind(devices);
    const list = devices.enumerateDevices.bind(devices);
    const names = { videoinput: ['Built-in camera', 'Desk camera'], audioinput: ['Built-in microphone', 'Headset'], audiooutput: ['Built-in speakers', 'Headset'] };
    devices.getUserMedia = async (wanted) => {
      const { audio, video } = wanted;
      const tracks = audio ? (await open({ audio })).getTracks() : [];
      if (video) tracks.push(film(window.person));
      return new MediaStream(tracks);
    };
    devices.getDisplayMedia = async () => present();
    devices.enumerateDevices = async () => {
      const seen = {};
      return (await list()).filter((device) => device.deviceId !== 'default').map((device) => {
        const number = seen[device.kind] = (seen[device.kind] ?? -1) + 1;
        const { deviceId, groupId, kind, label } = device;
        return { deviceId, groupId, kind, label: label && (names[kind]?.[number] ?? ''), toJSON() {} };
      }).filter((device) => device.label !== '');
    };
  }
}
