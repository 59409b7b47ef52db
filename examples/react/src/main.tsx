import { StrictMode, useEffect, useState, type FormEvent } from 'react';
import { createRoot } from 'react-dom/client';
import { closeStream, openCamera, openScreen, type Peer, type Room } from 'trio-signal';
import { usePeers, useRoom } from 'trio-signal/react';

const SERVER = 'http://127.0.0.1:8000';

function Video({ stream, label, muted = false }: { stream: MediaStream; label: string; muted?: boolean }) {
  const play = (video: HTMLVideoElement | null) => {
    if (video && video.srcObject !== stream) video.srcObject = stream;
  };
  return <video ref={play} aria-label={label} width={320} muted={muted} autoPlay playsInline />;
}

function useCamera(room: Room | null) {
  const [camera, setCamera] = useState<MediaStream | null>(null);
  useEffect(() => {
    if (!room) return undefined;
    const opened = openCamera();
    opened.then((stream) => {
      setCamera(stream);
      if (room.state !== 'closed') room.publish(stream);
    }, (error: Error) => alert(error.message));
    return () => {
      setCamera(null);
      opened.then(closeStream, () => {});
    };
  }, [room]);
  return camera;
}

function Share({ room }: { room: Room }) {
  const [screen, setScreen] = useState<MediaStream | null>(null);
  const stop = () => {
    closeStream(screen);
    room.unpublish('screen');
    setScreen(null);
  };
  const start = async () => {
    const stream = await openScreen();
    stream.getVideoTracks()[0]!.onended = () => {
      room.unpublish('screen');
      setScreen(null);
    };
    room.publish(stream, { name: 'screen' });
    setScreen(stream);
  };
  return <button onClick={screen ? stop : start}>{screen ? 'Stop sharing' : 'Share the screen'}</button>;
}

function Chat({ room }: { room: Room }) {
  const [lines, setLines] = useState<string[]>([]);
  const write = (line: string) => setLines((before) => [...before, line]);
  useEffect(() => room.on('message', (text: unknown, peer: Peer) => write(`${peer.name}: ${text}`)), [room]);
  const say = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const text = new FormData(event.currentTarget).get('text');
    if (room.send(text)) write(`You: ${text}`);
    event.currentTarget.reset();
  };
  return (
    <>
      <ul id="chat">{lines.map((line, i) => <li key={i}>{line}</li>)}</ul>
      <form onSubmit={say}><input name="text" aria-label="Message" /> <button>Send</button></form>
    </>
  );
}

function Call({ name }: { name: string }) {
  const { room, state, reason } = useRoom(SERVER, { room: 'react', username: name });
  const peers = usePeers(room);
  const camera = useCamera(room);
  return (
    <>
      <p id="state">{state} {reason}</p>
      {camera && <Video stream={camera} label="You" muted />}
      {peers.flatMap((peer) => [...peer.streams].map(([kind, stream]) => (
        <Video key={`${peer.id} ${kind}`} stream={stream} label={`${peer.name}, ${kind}`} />
      )))}
      <p id="here">{['You', ...peers.map((peer) => peer.name)].join(', ')}</p>
      {room && <Share room={room} />}
      {room && <Chat room={room} />}
    </>
  );
}

const name = new URLSearchParams(location.search).get('name') ?? 'Guest';
createRoot(document.getElementById('root')!).render(<StrictMode><Call name={name} /></StrictMode>);
